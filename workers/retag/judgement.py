"""What can be said of an outcome beside today's settings: a closed list of judgements and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel

from schemas.enriched_image import CaptionText, EventRef, ImageFacts, Models, Source
from schemas.options import Options
from workers.pipeline.profiles import Profile, make_profile
from workers.types import Headers

NeedReason: TypeAlias = Literal[
    "partial", "no-options", "tagger", "captioner", "no-scores", "labels", "below-floor", "guide", "embedding"
]
"""Why an outcome can't be made anew without the image: a closed list."""
StayReason: TypeAlias = Literal["unknown-profile", "corrections-not-read"]
"""Why an outcome is left as it is, although it may not be what today's settings give."""
Change: TypeAlias = Literal["tags", "translations", "caption", "embedding", "corrections", "models"]
NEEDS: Final[tuple[NeedReason, ...]] = get_args(NeedReason)
STAYS: Final[tuple[StayReason, ...]] = get_args(StayReason)
CHANGES: Final[tuple[Change, ...]] = get_args(Change)
REASONS: Final[Mapping[str, str]] = {
    "partial": "a wanted part is missing",
    "no-options": "the outcome does not say what was wanted",
    "tagger": "made by another tagger",
    "captioner": "made by another captioner",
    "no-scores": "the record carries no scores of its tagger",
    "labels": "its profile counts labels that were not scored",
    "below-floor": "a threshold is below the least score that the record carries",
    "guide": "a model's caption was written under other tags",
    "embedding": "the record carries no embedding of today's tagger",
    "unknown-profile": "its profile is not known today",
    "corrections-not-read": "people corrected it, and TAGSTREAM_CORRECTIONS_TOPIC is not set",
}

_NO_PROFILE: Final = make_profile("", ())

Fields: TypeAlias = Mapping[str, Any]


class TakenOver(BaseModel):
    """What a new event takes over of the old one; all else of it is made anew."""

    event: EventRef
    source: Source
    image: ImageFacts
    caption: CaptionText | None
    models: Models


@dataclass(frozen=True, slots=True)
class OutcomeCase:
    """What outcomes with equal models, thresholds and options share.

    Args:
        settled: their judgement, where it needs nothing else.
        same: nothing of the settings changed that concerns them, but perhaps translations and the template.
        rethresholded: nothing else than that and the thresholds changed, and the event shows tags.
        scored: the event shows what is made of scores.
        profile: today's, if there is one.
        models: as the new event's id has them.
        other: uses whose model is another today, and whose result is made without it.
    """

    settled: NeedsImage | Stays | None
    options: Options
    profile: Profile = _NO_PROFILE
    same: bool = False
    rethresholded: bool = False
    scored: bool = True
    models: Models = Models()  # noqa: RUF009  # frozen
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The outcome is what today's settings give."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """Today's settings give another event, which the record is enough for.

    Args:
        changes: what of it differs.
        parts: tags, caption, embedding and corrections, as the new event has them.
        taken: what it takes over.
        outcome: the old event's fields.
        headers: of the old event's record.
    """

    changes: tuple[Change, ...]
    case: OutcomeCase
    parts: Fields
    taken: TakenOver
    outcome: Fields
    headers: Headers


@dataclass(frozen=True, slots=True)
class NeedsImage:
    """Today's settings may give another event; only the image tells.

    Args:
        options: what to ask for; None: as today's settings say.
    """

    reason: NeedReason
    options: Options | None = None


@dataclass(frozen=True, slots=True)
class Stays:
    """The outcome is left alone."""

    reason: StayReason


Judgement: TypeAlias = Unchanged | Rescored | NeedsImage | Stays
UNCHANGED: Final = Unchanged()


class Kind(NamedTuple):
    """What many judgements have in common.

    Args:
        fate: what becomes of a subject that has an outcome.
        reason: why it needs the image or stays, or what changes; empty: neither.
        embedded: its new event shows an embedding that the record carries.
    """

    fate: Literal["rescore", "image", "unchanged", "stays", "filtered"]
    reason: str = ""
    embedded: bool = False


def kind_of(judgement: Judgement) -> Kind:
    match judgement:
        case Rescored(changes=changes, parts=parts):
            return Kind("rescore", ",".join(changes), parts.get("embedding") is not None)
        case NeedsImage(reason=reason):
            return Kind("image", reason)
        case Stays(reason=stays):
            return Kind("stays", stays)
        case _:
            return Kind("unchanged")
