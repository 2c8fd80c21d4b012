"""What is known of one image, computed now or stored before: what an event shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from schemas.correction import Word
from schemas.image_event import ImageEvent
from workers.pipeline.profiles import Profile
from workers.types import LabelScores


class Annotation(Protocol):
    """One image's results, and the event that asked for them. A `Task` is one."""

    profile: Profile
    results: dict[str, Any]
    """By role."""
    known_good: bool
    """Its image is each model's own."""
    selected: tuple[LabelScores, Sequence[tuple[int, float]]] | None
    """Kept by the tagger's role: scores, and the (label id, score) of those that its profile shows."""
    word: Word | None
    """Kept by the tagger's role: people's corrections, once `word_asked`."""
    word_asked: bool

    @property
    def event(self) -> ImageEvent: ...

    @property
    def sha256(self) -> str:
        """The hash of its content."""
        ...
