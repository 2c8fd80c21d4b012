"""Scores a dual encoder's labels from stored vectors, without the image.

A bundle's labels are the tensors that `workers.models.dual.adapters` names. They are read without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.models.bundle import WEIGHTS, Bundle
from workers.models.calibration import sigmoid
from workers.models.dual.config import KINDS, from_json
from workers.models.files import reading_safetensors
from workers.types import SCORE_PAIR

PIECE: Final = 4096
"""Number of vectors in a matrix product. More are slower, because they exceed the processor's cache."""

_Floats = NDArray[np.float32]


class Scored(NamedTuple):
    """Scores of some vectors, one after the other.

    Args:
        labels, scores: (pairs,) label ids and their scores, in label order within each vector.
        ends: (vectors + 1,) the bounds of each vector's pairs.
    """

    labels: NDArray[np.int32]
    scores: _Floats
    ends: NDArray[np.int64]


class LabelHead:
    """Scores labels from vectors as the bundle's tagger does, in fp32.

    It reads every byte of the bundle once.

    Args:
        ids: the labels to score, ascending; None: all.

    Raises:
        Misconfigured: a file of the bundle has changed.
    """

    def __init__(self, bundle: Bundle, ids: Sequence[int] | None = None) -> None:
        from safetensors import safe_open

        bundle.verify()
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        path = bundle.folder / WEIGHTS
        with reading_safetensors(path), safe_open(path, framework="numpy") as file:
            vectors, a, b = (file.get_tensor(f"labels.{name}") for name in ("vectors", "a", "b"))
            background = file.get_tensor("labels.background") if config.kind == "clip" else None
        self.dimensions = config.dimensions
        self._ids = np.arange(len(a), dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        a, b, factor = a[self._ids], b[self._ids], math.exp(config.scale)
        weights = factor * a[:, None] * vectors[self._ids]
        self._background = None if background is None else np.ascontiguousarray((factor * background).T)
        if background is not None:
            weights = np.hstack((weights, -a[:, None]))
        self._weights: _Floats = np.ascontiguousarray(weights.T, np.float32)
        self._offset: _Floats = (a * config.bias + b).astype(np.float32)
        floor = min(max(bundle.manifest.floor, 1e-30), 1 - 1e-7)
        self._least: _Floats = (math.log(floor / (1 - floor)) - self._offset).astype(np.float32)
        self._logits = np.empty((PIECE, len(self._ids)), np.float32)
        self._kept = np.empty(self._logits.shape, np.bool_)
        """Memory of a piece, reused: an allocation each time takes a tenth of the product's time."""

    def pieces(self, vectors: NDArray[np.float16]) -> Iterator[Scored]:
        """Score vectors (n, dimensions), `PIECE` at a time. One thread at a time."""
        for start in range(0, len(vectors), PIECE):
            yield self._score(vectors[start : start + PIECE])

    def _score(self, vectors: NDArray[np.float16]) -> Scored:
        rows = vectors.astype(np.float32)
        if self._background is not None:
            against = rows @ self._background
            most = against.max(1, keepdims=True)
            mean = most + np.log(np.exp(against - most).mean(1, keepdims=True))
            rows = np.hstack((rows, mean))
        logits, above = self._logits[: len(rows)], self._kept[: len(rows)]
        np.matmul(rows, self._weights, out=logits)
        np.greater_equal(logits, self._least, out=above)
        at = np.flatnonzero(above)
        row, column = np.divmod(at, len(self._ids))
        kept = logits.ravel()[at] + self._offset[column]
        return Scored(self._ids[column], sigmoid(kept), np.searchsorted(row, np.arange(len(vectors) + 1)))


def best_first(scored: Scored) -> Iterator[bytes]:
    """The scores of each vector in the header's form: pairs of label and score, best first."""
    pairs = np.empty(len(scored.labels), SCORE_PAIR)
    pairs["label"], pairs["score"] = scored.labels, scored.scores
    for begin, end in pairwise(scored.ends.tolist()):
        of_one = pairs[begin:end]
        yield of_one[np.argsort(-of_one["score"], kind="stable")].tobytes()


def head_of(bundle: Bundle, ids: Sequence[int] | None = None) -> LabelHead | None:
    """The head of a dual encoder with labels; None for other bundles."""
    return LabelHead(bundle, ids) if bundle.manifest.kind in KINDS and bundle.labels else None
