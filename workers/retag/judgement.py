"""What can be said of an outcome beside today's settings: a closed list of judgements and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel

from schemas.enriched_image import CaptionText, EventRef, ImageFacts, ModelRef, Models, Source
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


class Kind(NamedTuple):
    """What many judgements have in common.

    Args:
        fate: what becomes of a subject that has an outcome.
        reason: why it needs the image or stays, or what changes (`Change`s, joined by commas); empty: neither.
        embedded: its new event shows an embedding that the record carries.
    """

    fate: Literal["rescore", "image", "unchanged", "stays", "filtered"]
    reason: str = ""
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class OutcomeCase:
    """What outcomes with equal models, thresholds and options share.

    Args:
        options: as the new event has them, or the event that requests the image.
        settled: their judgement, where it needs nothing else.
        profile: today's, if there is one.
        limits: the profile's thresholds, by label id.
        same: nothing of the settings changed that concerns them, but perhaps translations and the template.
        rethresholded: nothing else than that and the thresholds changed, and the event shows tags.
        changed: what becomes of one that shows other labels than these give; None: only rendering tells.
        scored: the event shows what is made of scores.
        models: as the new event's id has them.
        other: uses whose model is another today, and whose result is made without it.
        rescored: today's tagger, where its scores come from the record's embedding.
        floors: of stored scores, by what stands before them; a reason: they are of no use.
    """

    options: Options
    settled: Kind | None = None
    profile: Profile = _NO_PROFILE
    limits: tuple[float, ...] = ()
    same: bool = False
    rethresholded: bool = False
    changed: Kind | None = None
    scored: bool = True
    models: Models = Models()  # noqa: RUF009  # frozen
    other: tuple[str, ...] = ()
    rescored: ModelRef | None = None
    floors: dict[bytes, float | NeedReason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """Today's event in the place of an outcome.

    Args:
        parts: tags, caption, embedding and corrections, as the new event has them.
        taken: what it takes over.
        outcome: the old event's fields.
        headers: of the old event's record.
    """

    case: OutcomeCase
    parts: Fields
    taken: TakenOver
    outcome: Fields
    headers: Headers


class Judgement(NamedTuple):
    """What becomes of one outcome.

    Args:
        options: to request the image with; None: as today's settings say.
        made: the new event, where the record is enough for it.
    """

    kind: Kind
    options: Options | None = None
    made: Made | None = None


UNCHANGED: Final = Judgement(Kind("unchanged"))
