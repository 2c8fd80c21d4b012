"""The results of one image, and the options that change results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from schemas.correction import Word
from schemas.dead_letter import Reason, Stage
from schemas.image_event import ImageEvent
from schemas.options import Options, Want
from workers.pipeline.profiles import Profile
from workers.types import Facts, Fetched, LabelScores


@dataclass(slots=True, eq=False)
class Annotation:
    """The results of one image.

    Args:
        results: results by role, from the cache, the models, or an equal image.
        hits: roles whose result was not computed for this event.
        roles: the roles with a model that the event needs; `Roles` fills it in.
        word: manual corrections, valid if `word_asked`; the tagger's role fills it in.
        selected: scores, and the (label id, score) pairs that the profile shows; the tagger's role fills it in.
        etag: of the object.
        since: when the object was modified; None: it was read itself, and no rendition.
    """

    event: ImageEvent
    profile: Profile
    sha256: str
    results: dict[str, Any] = field(default_factory=dict)
    hits: set[str] = field(default_factory=set)
    roles: Sequence[Any] | None = None
    word: Word | None = None
    word_asked: bool = False
    selected: tuple[LabelScores, Sequence[tuple[int, float]]] | None = None
    etag: str = ""
    since: str | None = None

    @classmethod
    def begin(cls, event: ImageEvent, profile: Profile, read: Facts | Fetched) -> Annotation:
        """Without results, of what was read."""
        since = None if read.original is None else read.last_modified
        return cls(event, profile, read.sha256, etag=read.etag, since=since)

    def copy(self) -> Annotation:
        return replace(self, results=dict(self.results), hits=set(self.hits), selected=None)


_FIELDS = tuple(Options.model_fields)

OptionRule: TypeAlias = Callable[[Annotation, Mapping[str, Any]], str | None]
"""Returns the part of an option that changes the result of a role; None: the option changes nothing. The second
argument holds the results of other roles, by name. Cache keys and the comparison of equal images use these parts."""

OptionRules: TypeAlias = Mapping[str, OptionRule]
"""The rule of each field of `Options`; empty: no option changes the result."""


def changes_nothing(image: Annotation, results: Mapping[str, Any]) -> None:
    """The rule for an option that does not change the result."""


NO_OPTIONS: OptionRules = dict.fromkeys(_FIELDS, changes_nothing)
"""The rules of a role whose result depends on the image alone."""


def option_parts(rules: OptionRules, image: Annotation, results: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of all options that change a result, as `name=value`."""
    found = [(name, rules[name](image, results)) for name in _FIELDS]
    return tuple([f"{name}={value}" for name, value in found if value is not None])


class RoleDefaults:
    """What most roles have in common (see `roles.ModelRole`)."""

    stage: Stage = "annotate"
    reason: Reason = "annotate-failed"
    essential = False
    comes_with: Want | None = None
    option_rules = NO_OPTIONS
    in_general = False

    def needs(self, options: Options) -> frozenset[Want]:
        return frozenset()

    def header(self, image: Annotation) -> tuple[str, bytes] | None:
        return None
