"""A tagger around one torch network: everything of the `Tagger` port but the network itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar
from weakref import ReferenceType, ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.added import Columns
from workers.models.bundle import Bundle, Golden
from workers.models.calibration import sigmoid
from workers.models.device import Device, Precision, normaliser
from workers.models.labels import narrowed_digest
from workers.models.precision import check_batches, check_golden, settle_batch
from workers.types import LabelScores, Pixels, Transform

Row = TypeVar("Row")
Network = Callable[[Tensor], Tensor]
"""Normalised images (n, 3, side, side) on the device to logits (n, columns), any float dtype."""

PIECE = 16
"""Images that travel to the device together: large enough to fill it, small enough to overlap with the next."""


class SeenRows(Generic[Row]):
    """Rows of the last batch, found by the images' arrays."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[ReferenceType[Pixels], Row]] = {}

    def keep(self, images: Sequence[Pixels], rows: Iterable[Row]) -> None:
        """Replace all rows."""
        self._rows = {id(image): (ref(image), row) for image, row in zip(images, rows, strict=True)}

    def drop(self, images: Sequence[Pixels]) -> None:
        for image in images:
            self._rows.pop(id(image), None)

    def row(self, image: Pixels) -> Row | None:
        """The row of this very array, or None. The id of an array that is gone may be another's."""
        seen, row = self._rows.get(id(image), (None, None))
        return row if seen is not None and seen() is image else None

    def rows(self, images: Sequence[Pixels], forward: Callable[[Sequence[Pixels]], object]) -> list[Row]:
        """The rows of these images; `forward` keeps those that are missing."""
        known = {id(image): row for image in images if (row := self.row(image)) is not None}
        if new := {id(image): image for image in images if id(image) not in known}:
            forward(list(new.values()))
            known |= {key: self._rows[key][1] for key in new}
        return [known[id(image)] for image in images]


class TorchTagger:
    """Makes a `Tagger` of a bundle and a network that gives logits.

    Args:
        network: built from the bundle's weights and placed on the device by the caller.
        exclusive: the labels exclude each other, and the network gives the logits of all. Not with `columns`.
        columns: labels of the network's columns; None: all of the bundle's, or those of `subset`. Where labels exclude
            each other, their scores are a softmax over all of them, and those of others a sigmoid each.
        features: normalised images to what an added layer reads, (n, width).
        subset: label ids to score, ascending; None means all. A subset's scores are those of the full set.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        precision: Precision,
        network: Network,
        *,
        exclusive: bool = False,
        columns: Columns | None = None,
        features: Network | None = None,
        subset: Sequence[int] | None = None,
    ) -> None:
        self.name = bundle.name
        self.digest = bundle.digest if subset is None else narrowed_digest(bundle.digest, subset)
        self.precision: str = precision
        self.transform: Transform = bundle.manifest.transform
        self.random_weights: bool = bundle.manifest.provenance.random
        self.max_batch = 0
        """Set by the caller that knows it, or found by `warm_up`."""
        self.labels: Sequence[str] = bundle.labels
        self.translations: Mapping[str, Sequence[str]] = bundle.translations
        self.parents: Sequence[Sequence[str]] = bundle.parents
        self.thresholds: Sequence[float] = bundle.thresholds
        self.profiles: Mapping[str, Sequence[float]] = bundle.profiles
        self.floor = bundle.manifest.floor
        self._golden = bundle.golden
        self._right: NDArray[np.float32] | None = None
        """The right answers for the images that warm it up, once it is warm."""
        self._device = device
        self._precision: Precision = precision
        normalise = normaliser(bundle.manifest.mean, bundle.manifest.std, device, device.dtype(precision))
        self._logits = device.functions()(lambda images: network(normalise(images)))
        self._features = None if features is None else lambda images: features(normalise(images))
        self._ids = np.arange(len(self.labels), dtype=np.int32) if subset is None else np.asarray(subset, np.int32)
        if exclusive and columns is None:
            columns = Columns(len(self.labels), (), tuple(self._ids.tolist()), exclusive=True)
        self._exclusive = columns.own if columns is not None and columns.exclusive else 0
        """Number of first columns that exclude each other."""
        self._columns: NDArray[np.int32] = self._ids if columns is None else np.array(columns.of_all, np.int32)
        """Of a network of all labels."""
        self._of_labels = None if columns is None else np.array(columns.of_labels, np.int32)

    def warm_up(self) -> None:
        images = self._warm_images()
        found = np.stack(self.forward(images))
        self._right = self._golden.outputs[:, self._columns] if self._golden is not None else found
        check_golden(self.name, self._precision, self._right, found)
        if self.max_batch == 0:
            self.max_batch = settle_batch(lambda size: self.forward([self.self_test_image()] * size))
        check_batches(
            self.name,
            self._precision,
            self._right,
            lambda places: np.stack(self.forward([images[place] for place in places])),
            self._device.batch_sizes(self.max_batch),
        )

    def self_test_image(self) -> Pixels:
        return self._warm_images()[0]

    def check_self_test(self, answer: NDArray[np.float32]) -> None:
        """As the check of the golden answers; without them, against the warm-up's answer."""
        assert self._right is not None, "warm_up comes first"
        check_golden(self.name, self._precision, self._right, np.concatenate(([answer], self._right[1:])))

    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """One row of logits an image."""
        with self._device.run():
            pieces = [self._logits(piece) for piece in self._device.stream(images, PIECE)]
            return list(torch.cat(pieces).float().cpu().numpy()) if pieces else []

    def features(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """One row an image: the input of a layer of added labels. Raises Misconfigured: the network has no features."""
        if self._features is None:
            raise Misconfigured(f"{self.name} gives no features of its images, so no labels can be added to it.")
        with self._device.run():
            return [
                row
                for piece in self._device.stream(images, PIECE)
                for row in self._features(piece).float().cpu().numpy()
            ]

    def postprocess(self, raw: NDArray[np.float32]) -> LabelScores:
        scores = self._scores(raw)
        return self._above_floor(self._ids, scores if self._of_labels is None else scores[self._of_labels])

    def _scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(logits).all():
            raise ValueError(f"{self.name}: not a number among {logits.size} logits")
        if not self._exclusive:
            return sigmoid(logits)
        first, others = logits[: self._exclusive], logits[self._exclusive :]
        powers = np.exp(first - first.max())
        return np.concatenate((powers / powers.sum(), sigmoid(others)))

    def _above_floor(self, ids: NDArray[np.int32], scores: NDArray[np.float32]) -> LabelScores:
        kept = scores >= self.floor
        return LabelScores(ids[kept], scores[kept])

    def _warm_images(self) -> Sequence[Pixels]:
        return list(self._golden.pixels) if self._golden is not None else [sample_image(self.transform.size)]


def golden_answers(tagger: TorchTagger) -> Golden:
    """Two sample images with this tagger's fp32 answers, for a new bundle."""
    samples = [sample_image(tagger.transform.size, seed) for seed in (0, 1)]
    return Golden(np.stack(samples), np.stack(tagger.forward(samples)))


def sample_image(side: int, seed: int = 0) -> Pixels:
    """An image that needs no file: (side, side, 3), smooth colours with sharp edges, the same everywhere."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = np.stack([np.sin((3 + k + seed) * np.pi * x + k) * np.cos((2 + 2 * k) * np.pi * y) for k in range(3)], -1)
    squares = ((np.floor(x * 6) + np.floor(y * 6)) % 2)[..., None]
    image: Pixels = np.rint(np.clip(128 + 90 * waves + 35 * (squares - 0.5), 0, 255)).astype(np.uint8)
    return image
