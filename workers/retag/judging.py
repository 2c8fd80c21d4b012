"""Judges one record: what today's settings make of its outcome.

What an outcome becomes is rendered by the worker's own roles, from the scores that its record carries.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from schemas import writing
from schemas.correction import Word
from schemas.enriched_image import USES, CaptionText, Embedding, EventRef, ImageFacts, Models, Source
from schemas.image_event import ImageEvent
from schemas.options import Options
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, STORED_HEADERS, PackedScores, StoredEmbedding
from schemas.text import first_fault, subject
from workers.errors import Misconfigured
from workers.pipeline.annotation import Annotation
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import Profile
from workers.pipeline.rendering import Renderer
from workers.ports import Clock, CorrectionLog
from workers.retag.today import Today
from workers.types import Caption, Coordinates, Document, Facts, Headers, LabelScores

NeedReason: TypeAlias = Literal[
    "partial",  # a wanted part is missing
    "no-options",  # of before this field: what was wanted is not known
    "tagger",  # made by another tagger
    "captioner",  # made by another captioner
    "no-scores",  # the record carries no scores of its tagger
    "labels",  # its profile counts labels that were not scored
    "below-floor",  # a threshold is below the least score that the record carries
    "guide",  # its caption was written under other tags
    "embedding",  # it carries no embedding of today's tagger
]
"""Why an outcome can't be made anew without the image: a closed list."""
StayReason: TypeAlias = Literal[
    "unknown-profile",  # today's settings have no profile of this name
    "corrections-not-read",  # people corrected it, and no topic of corrections is set
]
"""Why an outcome is left as it is, although it may not be what today's settings give."""
Change: TypeAlias = Literal["tags", "translations", "caption", "embedding", "corrections", "models"]
NEEDS: Final[tuple[NeedReason, ...]] = get_args(NeedReason)
STAYS: Final[tuple[StayReason, ...]] = get_args(StayReason)
CHANGES: Final[tuple[Change, ...]] = get_args(Change)

_OTHER_PARTS: Final[tuple[Change, ...]] = ("caption", "embedding", "corrections")
_TAKEN_OVER: Final[Mapping[str, type[BaseModel]]] = {
    "event": EventRef,
    "source": Source,
    "image": ImageFacts,
    "caption": CaptionText,
}
_CASES = 10_000
_PAIRS: Final = np.dtype([("id", "<u4"), ("score", "<f4")])

Fields: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The outcome is what today's settings give."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """Today's settings give another event, which the record is enough for.

    Args:
        changes: what of it differs.
        parts: tags, caption, embedding and corrections, as the new event has them.
        rendered: the same, before they were JSON.
        models: what made them; each with the precision that it ran in.
        embedded: it shows an embedding, which was taken from the record.
        outcome: the old event's fields.
        headers: of the old event's record.
    """

    changes: tuple[Change, ...]
    image: Annotation
    parts: Fields
    rendered: dict[str, Any]
    models: Models
    embedded: bool
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


@dataclass(frozen=True, slots=True)
class OutcomeCase:
    """What outcomes with equal models, thresholds and options share.

    Args:
        settled: their judgement, where it needs nothing else.
        same: nothing of the settings changed that concerns them.
        models: uses whose model is another today, and whose result is made without it.
        scored: the event shows what is made of scores.
        rethresholded: nothing but the thresholds can have changed, and the event shows tags.
    """

    settled: NeedsImage | Stays | None
    same: bool = False
    options: Options = Options()  # noqa: RUF009  # frozen
    profile: Profile | None = None
    models: tuple[str, ...] = ()
    scored: bool = True
    rethresholded: bool = False


class Retagger:
    """Compares outcomes with what today's settings give.

    Args:
        corrections: what persons said, as far as it was read; None: no topic of it is set.
        planned: a plan has found the outcomes to be whole enriched images, so that is not checked again.
    """

    def __init__(self, today: Today, corrections: CorrectionLog | None, clock: Clock, *, planned: bool = False) -> None:
        self._planned = planned
        self._today = today
        self._corrections = corrections
        self._roles = today.roles()
        self._renderer = Renderer(self._roles, WorkerOptions(), {}, clock)
        self._cases: dict[tuple[Any, ...], OutcomeCase] = {}
        self._last: tuple[bytes | None, Profile, LabelScores | NeedReason] | None = None

    def judge(self, outcome: Fields, headers: Headers) -> Judgement:
        """Judge one enriched image, given as parsed JSON, with its record's headers.

        Raises:
            ValueError: it is no enriched image.
            Misconfigured: its embedding and today's tagger contradict each other about the space.
        """
        try:
            return self._judge(outcome, headers)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"an enriched image with another shape: {error!r}") from None

    def document(self, made: Rescored, where: Coordinates, version: int) -> Document:
        """The new event, as it travels.

        Args:
            where: the record that it is made from.
        """
        old = made.outcome
        source, image = old["source"], old["image"]
        facts = Facts(
            sha256=source["sha256"],
            etag=source["etag"],
            version_id=source["version_id"],
            last_modified=source["last_modified"],
            size=image["bytes"],
            format=image["format"],
            width=image["width"],
            height=image["height"],
            decode_bytes=0,
        )
        return self._renderer.enriched(
            made.image,
            facts,
            where,
            version,
            models=made.models,
            timings_ms={},
            cache=writing.cache(),
            stored=_stored(made),
            parts=made.rendered,
        )

    # ---- cases ------------------------------------------------------------------------------------------------

    def _judge(self, outcome: Fields, headers: Headers) -> Judgement:
        case = self.case_of(outcome)
        if isinstance(case.settled, Stays):
            return case.settled
        if outcome["status"] == "partial":
            return NeedsImage("partial", case.options)
        if case.settled is not None:
            return case.settled
        subject, sha256 = outcome["subject"], outcome["source"]["sha256"]
        if self.is_unchanged(case, subject, sha256, outcome, headers):
            return UNCHANGED
        if self._corrections is None and outcome.get("corrections") is not None:
            return Stays("corrections-not-read")
        if outcome.get("options") is None:
            return NeedsImage("no-options")
        profile, results = case.profile, dict[str, Any]()
        assert profile is not None
        if case.scored:
            scores = self._scores(header_of(headers, SCORES_HEADER), profile)
            if not isinstance(scores, LabelScores):
                return NeedsImage(scores, case.options)
            order = scores.label_ids.argsort()
            results["tags"] = LabelScores(scores.label_ids.take(order), scores.scores.take(order))
        word = self._word(subject, sha256)
        event = _event_of(outcome, case.options)
        image = Annotation(event, profile, sha256, results=results, word=word, word_asked=True)
        lacks = self._fill(image, case, outcome, headers)
        return NeedsImage(lacks, case.options) if lacks else self._compared(image, case, outcome, headers)

    def _word(self, subject: str, sha256: str) -> Word | None:
        return None if self._corrections is None else self._corrections.on(subject, sha256)

    def is_unchanged(self, case: OutcomeCase, subject: str, sha256: str, shown: Fields, headers: Headers) -> bool:
        """Whether nothing changed but thresholds between which no score lies.

        False tells nothing. `judge` asks it first; who knows the case of a record need not read all of it.

        Args:
            sha256: of its content.
            shown: its tags, caption and corrections.
        """
        word = self._word(subject, sha256)
        if case.settled is not None or not _says(word, shown.get("corrections")):
            return False
        if not case.same:
            if not case.rethresholded or word is not None or case.profile is None:
                return False
            scores = self._scores(header_of(headers, SCORES_HEADER), case.profile)
            if not isinstance(scores, LabelScores):
                return False
            labels = scores.label_ids[case.profile.shows(scores)].tolist()
            if not self._shows(shown["tags"], labels):
                return False
        return self._template_gives(shown["caption"])

    def case_of(self, outcome: Fields) -> OutcomeCase:
        models, thresholds, asked = outcome["models"], outcome["thresholds"], outcome.get("options")
        key = (
            *(models[use] and models[use]["digest"] for use in USES),
            thresholds["profile"],
            thresholds["digest"],
            outcome["event"]["dialect"] == "s3",
            *(() if asked is None else (*asked["want"], *asked["guide_tags"], asked["profile"])),
            asked is None,
        )
        found = self._cases.get(key)
        if found is None:
            if len(self._cases) >= _CASES:
                self._cases.clear()
            found = self._cases[key] = self._find_case(outcome)
        return found

    def _find_case(self, outcome: Fields) -> OutcomeCase:
        asked, thresholds = outcome.get("options"), outcome["thresholds"]
        try:
            options = Options() if asked is None else Options.model_validate(asked)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        want = options.want
        if asked is not None and outcome["event"]["dialect"] == "s3":  # which can't say what it wants
            options = options.model_copy(update={"want": self._today.want})
        profile = self._today.profiles.get(thresholds["profile"])
        if profile is None:
            return OutcomeCase(Stays("unknown-profile"), options=options)
        other = self._other_models(outcome["models"], None if asked is None else options)
        if "tagger" in other:
            return OutcomeCase(NeedsImage("tagger", options), options=options)
        if "captioner" in other and self._today.captioner is not None:
            return OutcomeCase(NeedsImage("captioner", options), options=options)
        alike = not other and options.want == want
        return OutcomeCase(
            None,
            same=alike and profile.digest == thresholds["digest"],
            options=options,
            profile=profile,
            models=other,
            scored=any(role.name == "tags" for role in self._roles.wanted(options)),
            rethresholded=alike and "tags" in want and "embedding" not in want,
        )

    def _other_models(self, models: Fields, options: Options | None) -> tuple[str, ...]:
        """Uses of another model today that the event depends on."""
        today = self._today.models
        other = [use for use in USES if _digest(models[use]) != (model.digest if (model := today[use]) else None)]
        return tuple(use for use in other if options is None or _shows(options, use))

    def _template_gives(self, caption: Fields | None) -> bool:
        """Whether the template still makes this caption; true for a model's."""
        if self._today.template is None or caption is None:
            return True
        made = self._today.template(tuple(caption["guided_by"]))
        return made is not None and made.text == caption["text"]

    # ---- making anew ------------------------------------------------------------------------------------------

    def _shows(self, tags: Sequence[Fields], labels: Sequence[int]) -> bool:
        """Whether the tags are these labels in this order, in all languages."""
        assert self._today.tagger is not None
        codes = tags[0].get("translations", {}).keys() if tags else self._today.tagger.translations.keys()
        return codes == self._today.tagger.translations.keys() and labels == [tag["label_id"] for tag in tags]

    def _fill(self, image: Annotation, case: OutcomeCase, outcome: Fields, headers: Headers) -> NeedReason | None:
        """Fill in the caption and embedding that the record tells; returns what it lacks."""
        want, caption = case.options.want, outcome["caption"]
        if "caption" in want and self._today.captioner is not None:
            if caption is None:
                return "captioner"
            image.results["caption"] = Caption(caption["text"], caption["score"], caption["method"])
        if "embedding" in want:
            embedding = self._embedding(outcome, header_of(headers, EMBEDDING_HEADER))
            if embedding is None:
                return "embedding"
            image.results["embedding"] = embedding
        return None

    def _scores(self, value: bytes | None, profile: Profile) -> LabelScores | NeedReason:
        """The record's scores, best first, or why they don't tell all tags. Kept for the next question about them."""
        if self._last is None or self._last[0] is not value or self._last[1] is not profile:
            self._last = value, profile, self._read_scores(value, profile)
        return self._last[2]

    def _read_scores(self, value: bytes | None, profile: Profile) -> LabelScores | NeedReason:
        tagger = self._today.tagger
        assert tagger is not None
        try:
            stored = PackedScores.decode(value)
        except ValueError:
            return "no-scores"
        pairs = np.frombuffer(stored.pairs, _PAIRS)
        ids, scores = pairs["id"].astype(np.int32), pairs["score"].astype(np.float32)
        within = np.count_nonzero((scores >= stored.floor) & (scores <= 1) & (ids >= 0) & (ids < len(tagger.labels)))
        if stored.tagger != tagger.digest or within < len(ids) or np.count_nonzero(scores[1:] > scores[:-1]):
            return "no-scores"
        if stored.labels is not None and (profile.subset is None or profile.subset.digest != stored.labels):
            return "labels"
        if stored.floor > np.float32(tagger.floor):  # it had more than it could carry
            hidden = tagger.scored & (profile.thresholds < stored.floor)
            hidden[ids] = False
            if hidden.any():
                return "below-floor"
        return LabelScores(ids, scores)

    def _embedding(self, outcome: Fields, value: bytes | None) -> Embedding | None:
        """Today's tagger's embedding, from the event or its record.

        Raises:
            Misconfigured: the tagger says that its embeddings are of another space.
        """
        tagger, found = self._today.tagger, outcome.get("embedding")
        assert tagger is not None
        if found is None:
            try:
                stored = StoredEmbedding.decode(value)
            except ValueError:
                return None
            data = b64encode(stored.data).decode()
            found = {"space": stored.space, "dimensions": stored.dimensions, "data": data, "model": stored.model}
        if found["model"] != tagger.digest:
            return None
        if tagger.space is not None and found["space"] != tagger.space:
            raise Misconfigured(
                f"{outcome['subject']}: its embedding is a point in the space {found['space']!r}, and {tagger.name}, "
                f"which made it, has the space {tagger.space!r}: vectors of two spaces can't be compared. "
                "Import the model under another digest, or tag these images anew."
            )
        return Embedding.model_validate(found)

    def _compared(self, image: Annotation, case: OutcomeCase, outcome: Fields, headers: Headers) -> Judgement:
        rendered = self._renderer.parts(image)
        parts = orjson.loads(orjson.dumps(rendered, default=dict))
        caption = parts.get("caption")
        if self._today.captioner is not None and caption and caption["guided_by"] != outcome["caption"]["guided_by"]:
            return NeedsImage("guide", case.options)
        changes = list[Change]()
        if (tags := parts.get("tags", [])) != outcome["tags"]:
            changes.append("translations" if _untranslated(tags) == _untranslated(outcome["tags"]) else "tags")
        changes += [name for name in _OTHER_PARTS if parts.get(name) != outcome.get(name)]
        if case.models:
            changes.append("models")
        if not changes:
            return UNCHANGED
        if not self._planned:
            _require_whole(outcome)
        models = Models(**{use: None if use in case.models else outcome["models"][use] for use in USES})
        embedded = parts.get("embedding") is not None
        return Rescored(tuple(changes), image, parts, rendered, models, embedded, outcome, headers)


def read_document(value: bytes) -> dict[str, Any]:
    """A record's JSON object, unchecked.

    Raises:
        ValueError: it is none.
    """
    document = orjson.loads(value)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def _stored(made: Rescored) -> Headers:
    """What the old record carries, for the next change: an embedding where the new event shows none."""
    scores, embedding = (header_of(made.headers, name) for name in STORED_HEADERS)
    shown = made.outcome.get("embedding")
    if shown is not None:
        embedding = StoredEmbedding(shown["model"], shown["space"], b64decode(shown["data"])).encode()
    carried = ((SCORES_HEADER, scores), (EMBEDDING_HEADER, None if made.embedded else embedding))
    return tuple((name, value) for name, value in carried if value is not None)


def _require_whole(outcome: Fields) -> None:
    """Check what a new event takes over; all else of it is made anew.

    Raises:
        ValueError: something is not as `read_output` reads it.
    """
    try:
        for name, model in _TAKEN_OVER.items():
            if outcome[name] is not None or name != "caption":
                model.model_validate(outcome[name], extra="ignore")
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    if outcome["subject"] != subject(outcome["source"]["bucket"], outcome["source"]["key"]):
        raise ValueError("the subject is bucket/key of the source")


def _event_of(outcome: Fields, options: Options) -> ImageEvent:
    """The event that the outcome answered."""
    event, source = outcome["event"], outcome["source"]
    return ImageEvent(
        id=event["id"],
        dialect=event["dialect"],
        action="enrich",
        index=0,
        bucket=source["bucket"],
        key=source["key"],
        version_id=source["version_id"],
        etag=source["etag"],
        size=outcome["image"]["bytes"],
        sequencer=source["sequencer"],
        event_time=event["time"],
        options=options,
    )


def _shows(options: Options, use: str) -> bool:
    """Whether an event with these options depends on a model's result."""
    want = options.want
    if use == "captioner":
        return "caption" in want
    return "tags" in want or "embedding" in want or not options.guide_tags


def _digest(model: Fields | None) -> str | None:
    return None if model is None else str(model["digest"])


def header_of(headers: Headers, name: str) -> bytes | None:
    """The last header of this name; None: it is absent or null."""
    return next((value for key, value in reversed(headers) if key == name), None)


def _says(word: Word | None, said: Fields | None) -> bool:
    """Whether the event shows just these corrections."""
    if word is None:
        return said is None
    return said is not None and (list(word.added), list(word.removed)) == (said["added"], said["removed"])


def _untranslated(tags: Sequence[Fields]) -> list[dict[str, Any]]:
    return [{**tag, "translations": None} for tag in tags]
