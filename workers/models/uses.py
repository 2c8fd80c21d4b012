"""The uses of a model: how each is tried without an event, and compared with golden answers.

A use is a field of the event's `models`, a setting of the worker, and a function `build_<use>` of a builder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from workers.models.bundle import Golden
from workers.ports import Captioner, Tagger
from workers.types import Pixels


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two sets of answers to the same images agree.

    Args:
        images: how many there were.
        same: of how many the answers are the same as an event shows them.
        what: what was compared, for people: "tag sets", "captions".
        gap: largest difference between two logits; None if they are unknown.
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
    """Ids of the labels that score above their thresholds."""
    scores = tagger.postprocess(raw)
    shown = scores.scores > np.asarray(tagger.thresholds, np.float32)[scores.label_ids]
    return set(scores.label_ids[shown].tolist())


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a model.

    Args:
        trial: runs a batch as an event would that tells nothing but its image; what tuning times.
        agreement: how far a model of a whole bundle gives its golden answers; None: it has none for this use.
    """

    trial: Callable[[Any, Sequence[Pixels]], Sequence[Any]]
    agreement: Callable[[Any, Golden], Agreement | None]


def _tag(tagger: Tagger, images: Sequence[Pixels]) -> Sequence[Any]:
    return tagger.forward(images)


def _tags_agree(tagger: Tagger, golden: Golden) -> Agreement | None:
    if not golden.outputs.size:
        return None
    return of_rows(tagger, list(golden.outputs[:, : len(tagger.labels)]), tagger.forward(list(golden.pixels)))


def _caption(captioner: Captioner, images: Sequence[Pixels]) -> Sequence[Any]:
    return captioner.forward(images, [captioner.guide([])] * len(images))


def _captions_agree(captioner: Captioner, golden: Golden) -> Agreement | None:
    if not golden.captions:
        return None
    raws = captioner.forward(list(golden.pixels), golden.guides)
    return of_captions(golden.captions, [captioner.postprocess(raw).text for raw in raws])


USES: Final = {
    "tagger": Use(_tag, _tags_agree),
    "captioner": Use(_caption, _captions_agree),
}
