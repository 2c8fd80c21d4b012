"""The learning rate at each step."""

from __future__ import annotations

import math

from tagstream_train.plan import Plan


def rate(plan: Plan, step: int, steps: int, steps_per_epoch: float) -> float:
    """The learning rate of a step, counted from 0.

    The warm-up hides the decay, which goes on beneath it: a run of one epoch with a warm-up as long as the epoch ends
    at `lr`, as in the official programs.
    """
    if step < plan.warmup_steps:
        return plan.warmup_from + (plan.lr - plan.warmup_from) * step / plan.warmup_steps
    epochs = steps / steps_per_epoch
    epoch = step / steps_per_epoch
    if plan.decay_at == "epoch":
        epoch = math.floor(epoch + 1e-9)
    if plan.decay == "cosine":
        return plan.floor + (plan.lr - plan.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
    if plan.decay == "exponential":
        return float(max(plan.floor, plan.lr * plan.decay_factor**epoch))
    return plan.lr
