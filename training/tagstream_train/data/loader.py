"""Batches of images, decoded in threads, reproducible and resumable.

An image's random changes come from a seed of its own, a hash of the run's seed, the epoch and its position. So the
batches depend neither on the number of threads nor on the step where a run was resumed.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagstream_train.data.augment import Augment
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.samples import Sample
from workers.errors import Misconfigured
from workers.intake.transform import apply
from workers.types import Pixels, Transform

logger = logging.getLogger(__name__)

State: TypeAlias = dict[str, int]
_Made: TypeAlias = tuple[Sample, Pixels, int]
"""A sample, its pixels, and the seed of its random changes."""

AHEAD = 2
"""Batches that are made ahead."""
_TRIES = 100
"""Unusable images in a row that end a training."""


@dataclass(frozen=True, slots=True)
class View:
    """Converts an image into a model's input.

    Args:
        mean, std: by channel, of pixels scaled to 0..1.
        augment: None: the whole image by `transform`.
        transform: the worker's; by default squashes to the square. With `augment` only its EXIF orientation applies.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: Augment | None = None
    transform: Transform | None = None

    def pixels(self, images: Images, sample: Sample, random: Random) -> Pixels:
        """(side, side, 3) uint8. Raises as `Images.load`."""
        transform = self.transform or Transform(self.side)
        image = images.load(sample.image, sha256=sample.sha256, exif_transpose=transform.exif_transpose)
        if self.augment is None:
            return apply(transform, image)
        return np.array(self.augment(image, self.side, random))

    def tensor(self, pixels: Sequence[Pixels]) -> Tensor:
        """(n, 3, side, side) float32, normalised."""
        scaled = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std).contiguous()


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their samples, in one order.

    Args:
        images: (n, 3, side, side) float32, normalised.
        seeds: one for each sample, for further random choices such as the caption.
    """

    images: Tensor
    samples: tuple[Sample, ...]
    seeds: tuple[int, ...] = ()


class Batches:
    """Iterates over batches to the end of the last epoch.

    With `shuffle` (training) each epoch has its own order, and every batch is full: the epoch's first images complete
    the last batch, and the next usable image replaces an unusable one. So all processes make the same number of steps.
    Without `shuffle` the usable samples come in their order, each once.

    Args:
        side, mean, std, augment, transform: as of `View`.
        seed: everything that is random follows from it.
        rank, world: this process's number and how many there are; each gets batches of its own.
        epochs: None: without end.
        shuffle: by default when there is an `augment`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        images: Images,
        *,
        side: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        batch: int,
        seed: int = 0,
        augment: Augment | None = None,
        transform: Transform | None = None,
        workers: int = 2,
        rank: int = 0,
        world: int = 1,
        epochs: int | None = 1,
        shuffle: bool | None = None,
    ) -> None:
        self._samples, self._images = samples, images
        if not samples:
            raise Misconfigured("There are no samples to make batches of.")
        self._view = View(side, mean, std, augment, transform)
        self._batch, self._seed, self._workers = batch, seed, workers
        self._rank, self._world, self._epochs = rank, world, epochs
        self._shuffle = augment is not None if shuffle is None else shuffle
        self._at = (0, 0)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._lock = threading.Lock()
        self.skipped: dict[str, str] = {}
        """Images that could not be used, each with the reason."""

    def __len__(self) -> int:
        """Batches of one epoch in this process."""
        step = self._batch * self._world
        if self._shuffle:
            return -(-len(self._samples) // step)
        batches = -(-len(self._samples) // self._batch)
        return len(range(self._rank, batches, self._world))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches; after the end the next call restarts.

        Raises:
            Misconfigured: in training, too many unusable images in a row.
            Unavailable: the object store does not answer.
        """
        if not self._shuffle and self._epochs is not None and self._at[0] >= self._epochs:
            self._at = (0, 0)
        pool = ThreadPoolExecutor(max(1, self._workers), thread_name_prefix="images")
        coming: deque[tuple[tuple[int, int], list[Future[_Made | None]]]] = deque()
        places = self._places()
        try:
            while True:
                while len(coming) <= AHEAD and (place := next(places, None)):
                    coming.append((place, [pool.submit(self._make, *each) for each in self._tasks(*place)]))
                if not coming:
                    return
                (epoch, number), futures = coming.popleft()
                made = [each for future in futures if (each := future.result()) is not None]
                self._at = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
                if made:
                    kept, pixels, seeds = zip(*made, strict=True)
                    yield Batch(self._view.tensor(pixels), kept, seeds)
        finally:
            pool.shutdown(cancel_futures=True)

    def state(self) -> State:
        """The position after the last batch, as JSON-ready values."""
        return {"epoch": self._at[0], "batch": self._at[1], **self._kind()}

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue after the batch of this `state`.

        Raises:
            Misconfigured: the state is of other data, or of another division into batches.
        """
        for name, value in self._kind().items():
            if state.get(name) != value:
                raise Misconfigured(
                    f"The run can't be resumed: it had {name} {state.get(name)}, and now it is {value}. "
                    "Give it the same data and options, or begin another run."
                )
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or batch not in range(len(self)):
            raise Misconfigured(f"The run can't be resumed: it stopped at batch {batch}, and an epoch has {len(self)}.")
        self._at = (epoch, batch)

    def _kind(self) -> State:
        """Values that must match for a state to mean the same."""
        return {"samples": len(self._samples), "size": self._batch, "world": self._world, "seed": self._seed}

    def _places(self) -> Iterator[tuple[int, int]]:
        """Epoch and number of each batch to come."""
        epoch, number = self._at
        while self._epochs is None or epoch < self._epochs:
            yield from ((epoch, each) for each in range(number, len(self)))
            epoch, number = epoch + 1, 0

    def _tasks(self, epoch: int, number: int) -> Iterator[tuple[NDArray[np.int64], int, int]]:
        """Order, place and epoch of each image of a batch."""
        order = self._order_of(epoch)
        start = (number * self._world + self._rank) * self._batch
        end = start + self._batch if self._shuffle else min(start + self._batch, len(order))
        return ((order, place, epoch) for place in range(start, end))

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            random = np.random.Generator(np.random.PCG64(_seed(self._seed, epoch)))
            count = len(self._samples)
            order = random.permutation(count) if self._shuffle else np.arange(count)
            self._order = (epoch, order)
        return self._order[1]

    def _make(self, order: NDArray[np.int64], place: int, epoch: int) -> _Made | None:
        seed = _seed(self._seed, epoch, place)
        for step in range(_TRIES if self._shuffle else 1):
            sample = self._samples[order[(place + step) % len(order)]]
            try:
                return sample, self._view.pixels(self._images, sample, Random(seed)), seed
            except BadImage as bad:
                self._skip(bad)
        if self._shuffle:
            first, reason = next(iter(self.skipped.items()))
            raise Misconfigured(f"{_TRIES} images in a row can't be used; the first is {first} ({reason}).")
        return None

    def _skip(self, bad: BadImage) -> None:
        with self._lock:
            if bad.image in self.skipped:
                return
            self.skipped[bad.image] = bad.reason
        logger.warning("skipped %s", bad)


def multi_hot(
    samples: Sequence[Sample], labels: int, *, absent: Literal["unknown", "negative"]
) -> tuple[Tensor, Tensor]:
    """Targets and weights of the samples' labels.

    Args:
        absent: the meaning of a label without a statement for a sample.

    Returns:
        targets: (n, labels) float32, 1 for a label that the image has.
        weights: (n, labels) float32, 0 for unknown labels, else 1.
    """
    targets = torch.zeros(len(samples), labels)
    weights = torch.zeros_like(targets) if absent == "unknown" else torch.ones_like(targets)
    for row, sample in enumerate(samples):
        targets[row, list(sample.tags)] = 1
        weights[row, [*sample.tags, *(sample.absent or ())]] = 1
    return targets, weights


def _seed(*parts: int) -> int:
    """A 64-bit seed, equal for equal parts on every machine."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "big")
