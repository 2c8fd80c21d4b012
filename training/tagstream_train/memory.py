"""Estimate a training's memory before it starts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tagstream_train.data.loader import AHEAD, Batch
from tagstream_train.loop import TOTAL, Objective, Plan
from workers.assembly.needs import container_limit
from workers.errors import Misconfigured

MIB = 1 << 20
_PROGRAM_BYTES = 600 * MIB
"""Interpreter and torch."""
_SLACK = 1.4
"""Factor for temporary memory of operations and the allocator; measured with Swin-T and Swin-L."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes.

    Args:
        fixed: weights, gradients, the optimizer's moments, a teacher, kept features.
        image: for each image of a batch.
        available: on the device; None: unknown.
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
        """The largest batch that fits; 0: not even one image."""
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
    least: int = 1,
) -> Estimate:
    """Estimate a training's memory from two short steps.

    Args:
        one: any batch of the run's images; its first image is used, with its samples in turn.
        teachers: the objective's other networks; weights shared with the model count once.
        extra: further bytes that the run holds.
        least: images of the first step; the second has one more.
    """
    model = objective.model.train()

    def step(count: int) -> None:
        batch = Batch(one.images[:1].expand(count, -1, -1, -1), (one.samples * count)[:count], one.seeds[:1] * count)
        objective.losses(batch)[TOTAL].backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    first, second = (_peak(partial(step, count)) for count in (least, least + 1))
    everything = [tensor for module in (model, *teachers) for tensor in (*module.parameters(), *module.buffers())]
    weights = sum({tensor.data_ptr(): _bytes(tensor) for tensor in everything}.values())
    learning = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    copies = 4 if plan.ema else 3  # gradient and two moments
    each = max(0, second - first)
    fixed = weights + copies * learning + max(0, first - least * each - learning) + extra
    loaded = _bytes(one.images[:1]) * (AHEAD + 3)  # ahead, in use, and the next one
    return Estimate(int(fixed * 1.05), int(each * _SLACK) + loaded, plan.batch, available(plan))


def check(estimated: Estimate, advice: str = "") -> None:
    """Refuse a training that does not fit into the memory.

    Raises:
        Misconfigured: names the largest batch that fits.
    """
    if estimated.fits:
        return
    largest = estimated.largest_batch
    fits = f"With --batch {largest} it fits (--accumulation makes up for it)" if largest else "Not even one image fits"
    raise Misconfigured(f"This training takes {estimated}. {fits}{advice}.")


def check_room(wanted: int, plan: Plan, what: str, advice: str) -> None:
    """Refuse data that does not fit into the free memory.

    Args:
        what: a sentence with {} for the size.

    Raises:
        Misconfigured: fewer bytes are free.
    """
    if (free := available(plan)) is not None and wanted > free:
        raise Misconfigured(f"{what.format(f'{wanted / 1e9:.1f} GB')}, and {free / 1e9:.1f} GB are free: {advice}.")


def available(plan: Plan) -> int | None:
    """Free bytes on the plan's device, or None if unknown."""
    if plan.device == "auto" and torch.cuda.is_available():
        free: int = torch.cuda.mem_get_info()[0]
        return free
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return None
    room = int(lines["MemAvailable"].split()[0]) * 1024
    if (limit := container_limit()) is not None:
        room = min(room, limit - getrusage(RUSAGE_SELF).ru_maxrss * 1024)
    return max(0, room - _PROGRAM_BYTES)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of new tensors while they are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()).data_ptr() not in self._alive | given:
                self._alive.add(storage.data_ptr())
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, place: int, size: int) -> None:
        self._alive.discard(place)
        self.now -= size


def _peak(run: Callable[[], None]) -> int:
    """The most bytes that a computation takes at once."""
    live = _Live()
    with torch.random.fork_rng(), live:
        run()
    return live.peak


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{max(1, count // MIB)} MiB"
