"""How well two sets of answers to the same images agree: measures what a faster precision costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.ports import Tagger


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two sets of answers to the same images agree.

    Args:
        images: how many there were.
        same: of how many the answers are the same as an event shows them.
        what: what was compared, for people: "tag sets", "captions".
        gap: largest difference between two logits; None where they are not to be had.
    """

    images: int
    same: int
    what: str
    gap: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every answer is the same."""
        return self.same == self.images

    def __str__(self) -> str:
        logits = f", logits within {self.gap:.2g}" if self.gap is not None else ""
        return f"{self.same} of {self.images} {self.what}{logits}"


def of_rows(tagger: Tagger, expected: Sequence[Any], found: Sequence[Any]) -> Agreement:
    """Compare raw answers of a tagger, image by image: `expected` ones and those `found`."""
    pairs = list(zip(expected, found, strict=True))
    same = sum(shown_labels(tagger, one) == shown_labels(tagger, other) for one, other in pairs)
    arrays = all(isinstance(raw, np.ndarray) for pair in pairs for raw in pair)
    gap = max((float(np.abs(one - other).max(initial=0)) for one, other in pairs), default=0.0) if arrays else None
    return Agreement(len(pairs), same, "tag sets", gap)


def of_captions(expected: Sequence[str], found: Sequence[str]) -> Agreement:
    """Compare captions, image by image."""
    same = sum(one == other for one, other in zip(expected, found, strict=True))
    return Agreement(len(expected), same, "captions")


def shown_labels(tagger: Tagger, raw: Any) -> set[int]:
    """Ids of the labels whose score in a raw answer is above the label's threshold."""
    scores = tagger.postprocess(raw)
    shown = scores.scores > np.asarray(tagger.thresholds, np.float32)[scores.label_ids]
    return set(scores.label_ids[shown].tolist())
