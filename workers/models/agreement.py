"""How far a model's answers agree with others to the same images: what a faster precision costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.models.bundle import Bundle
from workers.ports import Captioner, Tagger


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two lots of answers to the same images.

    Args:
        images: how many there were.
        same_tags: of how many the tags are the same; None for a captioner.
        same_captions: of how many the caption is the same; None for a tagger.
        gap: largest difference between two logits; None where they are not to be had.
    """

    images: int
    same_tags: int | None = None
    same_captions: int | None = None
    gap: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every tag set and every caption that was compared is the same."""
        return all(count in (None, self.images) for count in (self.same_tags, self.same_captions))

    def __str__(self) -> str:
        counts = ((self.same_tags, "tag sets"), (self.same_captions, "captions"))
        parts = [f"{count} of {self.images} {what}" for count, what in counts if count is not None]
        return ", ".join(parts + ([f"logits within {self.gap:.2g}"] if self.gap is not None else []))


def of_rows(tagger: Tagger, expected: Sequence[Any], found: Sequence[Any]) -> Agreement:
    """Compare raw answers of a tagger, image by image: `expected` ones and those `found`."""
    pairs = list(zip(expected, found, strict=True))
    same = sum(_tags(tagger, one) == _tags(tagger, other) for one, other in pairs)
    arrays = all(isinstance(raw, np.ndarray) for pair in pairs for raw in pair)
    gap = max((float(np.abs(one - other).max(initial=0)) for one, other in pairs), default=0.0) if arrays else None
    return Agreement(len(pairs), same_tags=same, gap=gap)


def of_captions(expected: Sequence[str], found: Sequence[str]) -> Agreement:
    """Compare captions, image by image."""
    same = sum(one == other for one, other in zip(expected, found, strict=True))
    return Agreement(len(expected), same_captions=same)


def with_golden(bundle: Bundle, model: Tagger | Captioner) -> Agreement | None:
    """Compare a whole bundle's model with the bundle's golden answers; None where it has none for this model."""
    golden = bundle.golden
    if golden is None:
        return None
    images = list(golden.pixels)
    if isinstance(model, Captioner):
        if not golden.captions:
            return None
        raws = model.forward(images, golden.guides)
        return of_captions(golden.captions, [model.postprocess(raw).text for raw in raws])
    if not golden.outputs.size:
        return None
    return of_rows(model, list(golden.outputs[:, : len(model.labels)]), model.forward(images))


def _tags(tagger: Tagger, raw: Any) -> set[int]:
    """Ids of the labels that are shown."""
    scores = tagger.postprocess(raw)
    shown = scores.scores > np.asarray(tagger.thresholds, np.float32)[scores.label_ids]
    return set(scores.label_ids[shown].tolist())
