"""Scores and features of image parts by a bundle's tagger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tagstream_train.engine.clean import Row
from workers.intake.transform import apply
from workers.ports import Tagger

_BATCH = 32


class TaggerLooker:
    """Any tagger as a `Looker`.

    Features are its embedding where it gives one, else its scores of all labels as logits.

    The tagger is warm; it runs in the caller's thread.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.name = tagger.name
        self.digest = tagger.digest
        self.labels: Sequence[str] = tagger.labels
        self.thresholds: Sequence[float] = tagger.thresholds
        self.dimensions: int = getattr(tagger, "embedding_dimensions", len(tagger.labels))
        self._tagger = tagger
        self._embed: Any = getattr(tagger, "embed", None)

    def look(self, parts: Sequence[Image.Image]) -> tuple[Row, Row]:
        scores = np.zeros((len(parts), len(self.labels)), np.float32)
        features = np.zeros((len(parts), self.dimensions), np.float32)
        done = 0
        for some in _pieces(parts, min(_BATCH, self._tagger.max_batch or _BATCH)):
            pixels = [apply(self._tagger.transform, part) for part in some]
            for row, raw in enumerate(self._tagger.forward(pixels), done):
                found = self._tagger.postprocess(raw)
                scores[row, found.label_ids] = found.scores
            if self._embed is not None:
                features[done : done + len(some)] = self._embed(pixels)
            done += len(some)
        return scores, features if self._embed is not None else _logits(scores)


def _logits(scores: Row) -> Row:
    """Scores as logits, in the range that half precision holds."""
    inside = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


def _pieces(parts: Sequence[Image.Image], size: int) -> Sequence[Sequence[Image.Image]]:
    return [parts[start : start + size] for start in range(0, len(parts), size)]
