"""One image's results, computed now or stored before, and their option rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from schemas.correction import Word
from schemas.image_event import ImageEvent
from schemas.options import Options
from workers.pipeline.profiles import Profile
from workers.types import LabelScores


@dataclass(slots=True, eq=False)
class Annotation:
    """The results for one content, and their event.

    Args:
        sha256: of the content, hex.
        results: by role; from the cache, the device, or an equal image.
        hits: roles with a result that was not computed for this event.
    """

    event: ImageEvent
    profile: Profile
    sha256: str
    results: dict[str, Any] = field(default_factory=dict)
    hits: set[str] = field(default_factory=set)
    roles: Sequence[Any] | None = None
    """Model roles that the event wants; cached by `Roles`."""
    word: Word | None = None
    """Manual corrections, valid once `word_asked`; set by the tagger's role."""
    word_asked: bool = False
    selected: tuple[LabelScores, Sequence[tuple[int, float]]] | None = None
    """Scores, with the (label id, score) pairs that the profile shows; set by the tagger's role."""

    def copy(self) -> Annotation:
        """A copy that can be changed."""
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


_FIELDS = tuple(Options.model_fields)

OptionRule: TypeAlias = Callable[[Annotation, Mapping[str, Any]], str | None]
"""Returns the part of one field's value that changes a role's result, given other roles' results by name; None: the
field changes nothing. The rules of all roles tell which images in flight are equal. The rules of one role are part of
its cache keys. An event's id takes every field as it is (`enriched_id`)."""

OptionRules: TypeAlias = Mapping[str, OptionRule]
"""Rules by field of `Options`. A field without a rule raises a KeyError."""


def changes_nothing(image: Annotation, known: Mapping[str, Any]) -> None:
    """The rule for a field that does not change the result."""


def option_parts(rules: OptionRules, image: Annotation, known: Mapping[str, Any]) -> tuple[str, ...]:
    """A result's key parts from options; equal options give equal parts.

    Args:
        known: results of other roles, by name.
    """
    found = [(name, rules[name](image, known)) for name in _FIELDS]
    return tuple([f"{name}={value}" for name, value in found if value is not None])
