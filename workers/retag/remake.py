"""Remakes published outcomes with the current settings, from their stored results.

A record's headers answer like the cache: they fill an annotation, and the worker's roles and renderer do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from schemas import writing
from schemas.correction import Word
from schemas.enriched_image import USES, CaptionText, EventRef, ImageFacts, ModelRef, Models, Source
from schemas.image_event import ImageEvent
from schemas.options import WANTS, Options
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER
from schemas.text import READS, first_fault, subject
from workers.pipeline.annotation import Annotation
from workers.pipeline.facts import FACTS, facts_in
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import Profile, make_profile
from workers.pipeline.published import WRONG_SHAPE, Fields, NeedReason, NotStored, StoredOutcome
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import KeptRole
from workers.pipeline.tagging import Tagging
from workers.ports import Clock, CorrectionLog
from workers.retag.current import CurrentSettings
from workers.types import Coordinates, Document, Facts, Headers, LabelScores, Original, PictureFacts

StayReason: TypeAlias = Literal["unknown-profile", "corrections-not-read", "role-not-here"]
"""Why an outcome stays, although the current settings may give another."""
Change: TypeAlias = Literal["tags", "translations", "caption", "embedding", "corrections", "results", "models"]
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
    "guide": "a model wrote the caption under other tags",
    "embedding": "the record carries no embedding of today's tagger",
    "facts": "the outcome lacks the facts of its picture",
    "results": "the record lacks a wanted result of today's model",
    "unknown-profile": "its profile is not known today",
    "corrections-not-read": "people corrected it, and TAGSTREAM_CORRECTIONS_TOPIC is not set",
    "role-not-here": "it wants a result that TAGSTREAM_ROLES does not name",
}

_CASES: Final = 10_000
_OF_SCORES: Final[tuple[NeedReason, ...]] = ("no-scores", "labels", "below-floor")
_OTHER_PARTS: Final[tuple[Change, ...]] = ("caption", "embedding", "corrections")
_NO_PROFILE: Final = make_profile("", ())


@dataclass(frozen=True, slots=True)
class Same:
    """The current settings give the same event."""


@dataclass(frozen=True, slots=True)
class Stays:
    """The outcome stays."""

    reason: StayReason


@dataclass(frozen=True, slots=True)
class NeedsImage:
    """The record does not store enough.

    Args:
        options: for the event that requests the image.
    """

    reason: NeedReason
    options: Options


@dataclass(frozen=True, slots=True)
class New:
    """Another event.

    Args:
        changes: the parts that differ.
        outcome: the old event with its headers.
        parts: tags, caption, embedding and corrections of the new event, as JSON values.
        document: builds the new event, from the coordinates of the old record and the new version.
        scores: of the current tagger; None: no tags are wanted.
    """

    changes: tuple[Change, ...]
    outcome: StoredOutcome
    parts: Fields
    document: Callable[[Coordinates, int], Document]
    scores: LabelScores | None = None


Remade: TypeAlias = Same | New | NeedsImage | Stays
SAME: Final = Same()


class _Kept(BaseModel):
    """The parts of an old event that a new one keeps, checked."""

    event: EventRef
    source: Source
    image: ImageFacts
    caption: CaptionText | None
    models: Models


@dataclass(frozen=True, slots=True)
class _Case:
    """What outcomes with equal models, thresholds and options share.

    Args:
        event: an event with these options.
        settled: the answer for a complete outcome, if nothing else decides.
        profile: the current profile of this name.
        roles: the roles whose results the event needs.
        other: uses with another model now, on which the event depends.
        tagger: the current tagger, if it scores the stored vectors of another one.
        same: models, options and thresholds are as they were.
        by_label: without that, equal label ids are equal events.
    """

    event: ImageEvent
    settled: NeedsImage | Stays | None = None
    profile: Profile = _NO_PROFILE
    roles: Sequence[KeptRole] = ()
    other: tuple[str, ...] = ()
    tagger: ModelRef | None = None
    same: bool = False
    by_label: bool = False

    @property
    def options(self) -> Options:
        return self.event.options


class Remaker:
    """Remakes outcomes with the current settings.

    Args:
        corrections: the manual corrections; None: their topic is not set.
    """

    def __init__(self, settings: CurrentSettings, corrections: CorrectionLog | None, clock: Clock) -> None:
        self.settings = settings
        self._corrections = corrections
        self._roles = settings.roles()
        self._renderer = Renderer(self._roles, WorkerOptions(), {}, clock)
        self._tagging = next((role for role in self._roles.models if isinstance(role, Tagging)), None)
        self._added = {role.name: role.model.digest for role in self._roles.kept if role.name not in WANTS}
        self._cases: dict[tuple[Any, ...], _Case] = {}

    def remake(self, outcome: StoredOutcome, scores: bytes | None = None, *, facts: bool = False) -> Remade:
        """Compare an enriched image with the event that the current settings give.

        Args:
            scores: the header with the current tagger's scores of its vector (`vector_of`); None: scored here.
            facts: an outcome without facts of its picture needs the image. One with a ThumbHash has them all: every
                picture has one.

        Raises:
            ValueError: it is no enriched image.
            Misconfigured: its embedding and the current tagger contradict each other about the space.
        """
        try:
            vector = self.vector_of(outcome) if scores is None else None
            if vector is not None:
                assert self.settings.tagger is not None
                (scores,) = self.settings.tagger.rescore(vector[None])
            if scores is not None:
                headers = [each for each in outcome.headers if each[0] != SCORES_HEADER]
                outcome = outcome._replace(headers=(*headers, (SCORES_HEADER, scores)))
            remade = self._remake(outcome)
            if facts and isinstance(remade, Same | New) and outcome.fields["image"].get("thumbhash") is None:
                return NeedsImage("facts", self._case_of(outcome.fields).options)
            return remade
        except WRONG_SHAPE as error:
            raise ValueError(f"an enriched image with another shape: {error!r}") from None

    def vector_of(self, outcome: StoredOutcome) -> NDArray[np.float16] | None:
        """The vector, (dimensions,), from which the tagger scores its labels; or None."""
        tagger = self.settings.tagger
        if tagger is None or not tagger.scores_vectors or self._case_of(outcome.fields).tagger is None:
            return None
        found = outcome.embedding()
        if found is None or (found.model, found.space) != (tagger.embedding_model, tagger.embedding_space):
            return None
        vector = np.frombuffer(found.data, "<f2")
        return vector if tagger.head is not None and len(vector) == tagger.head.dimensions else None

    def _remake(self, outcome: StoredOutcome) -> Remade:
        fields = outcome.fields
        case, said = self._case_of(fields), fields.get("corrections")
        shown = (
            None if said is None else Word(tuple(said["added"]), tuple(said["removed"]), tuple(said.get("by") or ()))
        )
        if isinstance(case.settled, Stays):
            return case.settled
        if fields["status"] == "partial":
            return NeedsImage("partial", case.options)
        if case.settled is not None:
            return case.settled
        results, wanted = fields.get("results") or {}, case.options.results
        if any(name not in results or _digest(results[name]["model"]) != self._added[name] for name in wanted):
            return NeedsImage("results", case.options)
        if self._corrections is None and shown is not None:
            return Stays("corrections-not-read")
        word = self._word(fields)
        if case.same and word == shown and self._agrees(fields, case.options):
            return SAME
        image = Annotation(case.event, case.profile, "", word=word, word_asked=True)
        lack = _fill(image, case.roles, outcome)
        by_label = self._tagging if case.by_label and word is None and shown is None else None
        if by_label and by_label.has_labels_of(image, fields["tags"]) and self._agrees(fields, case.options):
            return SAME
        if fields.get("options") is None:
            return NeedsImage("no-options", case.options)
        if lack is not None:
            return NeedsImage("tagger" if case.tagger is not None and lack in _OF_SCORES else lack, case.options)
        return self._compared(image, case, outcome)

    # ---- cases ------------------------------------------------------------------------------------------------

    def _case_of(self, fields: Fields) -> _Case:
        models, thresholds, asked = fields["models"], fields["thresholds"], fields.get("options")
        key = (
            _digest(models["tagger"]),
            _digest(models["captioner"]),
            thresholds["profile"],
            thresholds["digest"],
            fields["event"]["dialect"] == "s3",
            None if asked is None else (tuple(_wishes(asked)), tuple(asked["guide_tags"]), asked["profile"]),
        )
        found = self._cases.get(key)
        if found is None:
            if len(self._cases) >= _CASES:
                self._cases.clear()
            found = self._cases[key] = self._find_case(fields)
        return found

    def _find_case(self, fields: Fields) -> _Case:
        asked, thresholds = fields.get("options"), fields["thresholds"]
        try:
            options = Options() if asked is None else Options.model_validate({**asked, "want": _wishes(asked)})
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        want, lacks = options.want, set(options.results) - self._added.keys()
        if asked is not None and fields["event"]["dialect"] == "s3":  # which can't say what it wants
            options = options.model_copy(update={"want": self.settings.want})
        event = ImageEvent("", "own", "enrich", 0, "", "", options=options)
        profile = self.settings.profiles.get(thresholds["profile"])
        if profile is None:
            return _Case(event, Stays("unknown-profile"))
        if lacks:
            return _Case(event, Stays("role-not-here"))
        other = self._other_models(fields["models"], None if asked is None else options)
        tagger = self.settings.tagger
        reference = tagger.reference if "tagger" in other and tagger is not None and asked is not None else None
        if "tagger" in other and reference is None:
            return _Case(event, NeedsImage("tagger", options))
        if "captioner" in other and self.settings.captioner is not None:
            return _Case(event, NeedsImage("captioner", options))
        alike = not other and options.want == want
        return _Case(
            event,
            profile=profile,
            roles=self._roles.wanted(options),
            other=other,
            tagger=reference,
            same=alike and profile.digest == thresholds["digest"],
            by_label=alike and "tags" in want and "embedding" not in want,
        )

    def _other_models(self, models: Fields, options: Options | None) -> tuple[str, ...]:
        """The uses that have another model now.

        Args:
            options: of the event, which must depend on the model; None: it may want anything.
        """
        current = self.settings.models
        other = [use for use in USES if _digest(models[use]) != (model.digest if (model := current[use]) else None)]
        if options is None:
            return tuple(other)
        caption, want = "caption" in options.want, options.want
        of_tags = "tags" in want or "embedding" in want or (caption and not options.guide_tags)
        return tuple(use for use in other if (caption if use == "captioner" else of_tags))

    # ---- one outcome ------------------------------------------------------------------------------------------

    def _word(self, fields: Fields) -> Word | None:
        """The manual corrections of the image."""
        log = self._corrections
        source = fields["source"]
        since = None if source.get("read") is None else source["last_modified"]
        return None if log is None else log.on(fields["subject"], source["sha256"], source["etag"], since)

    def _agrees(self, fields: Fields, options: Options) -> bool:
        """Whether the shown tags have the current translations, parents and template caption."""
        tags, caption, settings = fields["tags"], fields["caption"], self.settings
        if self._tagging is not None and not self._tagging.agrees(tags):
            return False
        if settings.template is None or "caption" not in options.want:
            return caption is None or settings.captioner is not None
        made = settings.template([tag["name"] for tag in tags] if caption is None else caption["guided_by"])
        return (None if made is None else made.text) == (None if caption is None else caption["text"])

    def _compared(self, image: Annotation, case: _Case, outcome: StoredOutcome) -> Same | New:
        fields = outcome.fields
        parts = self._parts(image)
        changes = list[Change]()
        if (tags := parts["tags"]) != (old := fields["tags"]):
            alike = len(tags) == len(old) and _untranslated(tags) == _untranslated(old)
            changes.append("translations" if alike else "tags")
        changes += [name for name in _OTHER_PARTS if parts.get(name) != _unpaid(fields.get(name))]
        if {*case.options.results} != {*(fields.get("results") or ())}:
            changes.append("results")
        if case.other:
            changes.append("models")
        if not changes:
            return SAME
        document = partial(self._document, image, case, outcome)
        return New(tuple(changes), outcome, parts, document, image.results.get("tags"))

    def _parts(self, image: Annotation) -> dict[str, Any]:
        """The fields of all roles, as JSON values."""
        parts = self._renderer.parts(image)
        parts["tags"] = [*parts["tags"]]
        if parts.get("caption") is not None:
            parts["caption"] = {**parts["caption"], "guided_by": [*parts["caption"]["guided_by"]]}
        for name in ("embedding", "corrections"):
            if parts.get(name) is not None:
                parts[name] = parts[name].model_dump(mode="json")
        return parts

    def _document(
        self, image: Annotation, case: _Case, outcome: StoredOutcome, where: Coordinates, version: int
    ) -> Document:
        try:
            kept = _Kept.model_validate(outcome.fields, extra="ignore", context=READS)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        event, source, facts = kept.event, kept.source, kept.image
        if outcome.fields["subject"] != subject(source.bucket, source.key):
            raise ValueError("the subject is bucket/key of the source")
        image.event = ImageEvent(
            event.id,
            cast(Any, event.dialect),
            "enrich",
            0,
            source.bucket,
            source.key,
            version_id=source.version_id,
            sequencer=source.sequencer,
            event_time=event.time,
            options=case.options,
        )
        known, image.results[FACTS] = _known(source, facts)
        models = kept.models.model_copy(update=dict.fromkeys(case.other))
        if case.tagger is not None:
            precision = "" if kept.models.tagger is None else kept.models.tagger.precision
            models = models.model_copy(update={"tagger": case.tagger.model_copy(update={"precision": precision})})
        return self._renderer.enriched(
            image,
            known,
            where,
            version,
            timings_ms={},
            cache=writing.cache(),
            stored=_stored(outcome, shown="embedding" in image.event.options.want),
            models=models,
        )


def _known(source: Source, image: ImageFacts) -> tuple[Facts, PictureFacts]:
    """The facts from which an event was made; its original's size stands in for that of a rendition."""
    read, told, original = source.read or image, facts_in(image), None
    if source.read is not None:
        place = source.read.bucket, source.read.key
        original = Original(*place, image.bytes, image.format, image.width, image.height, told)
        told = replace(told, orientation=source.read.orientation)
    known = Facts(
        source.sha256,
        source.etag,
        source.version_id,
        source.last_modified,
        image.bytes,
        image.format,
        read.width,
        read.height,
        decode_bytes=0,
        original=original,
    )
    return known, told


def _fill(image: Annotation, roles: Sequence[KeptRole], outcome: StoredOutcome) -> NeedReason | None:
    """Fill in the stored results; returns why one is missing."""
    try:
        for role in roles:
            image.results[role.name] = role.restore(outcome, image)
            image.hits.add(role.name)
    except NotStored as lack:
        return lack.reason
    return None


def _unpaid(part: Fields | None) -> Fields | None:
    """A part without its usage: what is kept costs nothing again."""
    return part if part is None else {name: value for name, value in part.items() if name != "usage"}


def _stored(outcome: StoredOutcome, *, shown: bool) -> Headers:
    """The stored results of a new event; an embedding only if the event does not show it."""
    embedding = None if shown else outcome.embedding_header()
    stored = ((SCORES_HEADER, outcome.header(SCORES_HEADER)), (EMBEDDING_HEADER, embedding))
    return tuple([(name, value) for name, value in stored if value is not None])


def _wishes(asked: Fields) -> list[str]:
    """All results that an outcome's options name. Raises TypeError: they are no lists."""
    wishes: list[str] = asked["want"] + (asked.get("results") or [])
    return wishes


def _digest(model: Fields | None) -> str | None:
    return None if model is None else cast(str, model["digest"])


def _untranslated(tags: Sequence[Fields]) -> list[dict[str, Any]]:
    return [{**tag, "translations": None} for tag in tags]
