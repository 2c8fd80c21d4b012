"""Estimate a training's memory before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tagstream_train.data.loader import Batch
from tagstream_train.loop import TOTAL, Objective, Plan
from workers.errors import Misconfigured

MIB = 1 << 20
_PROGRAM_BYTES = 600 * MIB
"""Interpreter, torch, and batches that are made ahead."""
_SLACK = 1.2
"""What operations take for themselves, on top of what they keep for the gradient."""
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes.

    Args:
        fixed: weights, gradients, the optimizer's moments, a teacher, features that are kept.
        image: what each image of a batch takes.
        batch: images of a batch.
        available: on the device; None: not known.
    """

    fixed: int
    image: int
    batch: int
    available: int | None

    @property
    def total(self) -> int:
        return self.fixed + self.image * self.batch

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available

    @property
    def largest_batch(self) -> int:
        """The largest batch that fits; 0: none does."""
        if self.available is None:
            return self.batch
        return max(0, (self.available - self.fixed) // max(1, self.image))

    def __str__(self) -> str:
        there = "" if self.available is None else f" of {_size(self.available)}"
        parts = f"{_size(self.fixed)}, and {_size(self.image)} for each image of a batch"
        return f"about {_size(self.total)}{there} ({parts})"


def estimate(
    objective: Objective,
    one: Batch,
    plan: Plan,
    *,
    teachers: Sequence[nn.Module] = (),
    extra: int = 0,
    images: int | None = None,
) -> Estimate:
    """Estimate a training's memory from one small batch.

    Args:
        one: any batch of the run's images; its first image is looked at.
        teachers: networks that the objective has besides its model; what they share with it counts once.
        extra: bytes of what else is kept.
        images: that are computed together; by default the plan's batch.
    """
    model = objective.model.train()
    one = Batch(one.images[:1], one.samples[:1], one.seeds[:1])
    kept = _kept_for_gradient(lambda: objective.losses(one)[TOTAL], model)
    everything = [tensor for module in (model, *teachers) for tensor in (*module.parameters(), *module.buffers())]
    weights = sum({tensor.data_ptr(): _bytes(tensor) for tensor in everything}.values())
    learning = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    copies = 4 if plan.ema else 3  # gradient and two moments
    fixed = weights + copies * learning + extra
    return Estimate(int(fixed * 1.05), int(kept * _SLACK), images or plan.batch, available(plan))


def check(estimated: Estimate, advice: str = "") -> None:
    """
    Raises:
        Misconfigured: it can't fit; says what would.
    """
    if estimated.fits:
        return
    largest = estimated.largest_batch
    fits = f"With --batch {largest} it fits (--accumulation makes up for it)" if largest else "Not even one image fits"
    raise Misconfigured(f"This training takes {estimated}. {fits}{advice}.")


def available(plan: Plan) -> int | None:
    """Free bytes on the plan's device, or None if unknown."""
    if plan.device == "auto" and torch.cuda.is_available():
        free: int = torch.cuda.mem_get_info()[0]
        return free
    return _host_memory()


def _host_memory() -> int | None:
    limits = [value for value in (_container(), _free()) if value is not None]
    return max(0, min(limits) - _PROGRAM_BYTES) if limits else None


def _container() -> int | None:
    """Bytes that the container's limit leaves.

    File pages, which the system drops when it needs them, count as free.
    """
    try:
        limit, statistics = (Path(path).read_text() for path in _CGROUP)
    except OSError:
        return None
    used = dict(line.split() for line in statistics.splitlines())
    return int(limit) - int(used.get("anon", 0)) if limit.strip().isdigit() else None


def _free() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return None
    return int(lines["MemAvailable"].split()[0]) * 1024


def _kept_for_gradient(loss: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that a loss keeps for its gradient, each storage once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = loss()
    del total
    return sum(storages.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{max(1, count // MIB)} MiB"
