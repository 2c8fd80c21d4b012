"""What is known of one image, computed now or stored before: what an event shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.correction import Word
from schemas.image_event import ImageEvent
from workers.pipeline.profiles import Profile
from workers.types import LabelScores


@dataclass(slots=True, eq=False)
class Annotation:
    """One content's results, and the event that wants them.

    Args:
        sha256: of the content, hex.
        results: by role; from a lookup, the device, or the equal image that led.
        hits: the roles whose result was not computed for this event.
    """

    event: ImageEvent
    profile: Profile
    sha256: str
    results: dict[str, Any] = field(default_factory=dict)
    hits: set[str] = field(default_factory=set)
    roles: Sequence[Any] | None = None
    """Kept by `Roles.missing`: the models' roles that the event wants."""
    word: Word | None = None
    """Kept by the tagger's role: people's corrections, once `word_asked`."""
    word_asked: bool = False
    selected: tuple[LabelScores, Sequence[tuple[int, float]]] | None = None
    """Kept by the tagger's role: scores, and the (label id, score) of those that its profile shows."""

    def copy(self) -> Annotation:
        """The same, to be added to."""
        return Annotation(
            self.event,
            self.profile,
            self.sha256,
            dict(self.results),
            set(self.hits),
            self.roles,
            self.word,
            self.word_asked,
        )
