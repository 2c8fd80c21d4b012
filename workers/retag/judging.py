"""Judges one record: what today's settings make of its outcome.

What an outcome becomes is rendered by the worker's own roles, from the scores that its record carries.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from schemas import writing
from schemas.correction import Word
from schemas.enriched_image import (
    USES,
    CorrectedTags,
    Embedding,
    Models,
    Thresholds,
    enriched_id,
)
from schemas.image_event import ImageEvent
from schemas.options import Options
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, STORED_HEADERS, PackedScores, StoredEmbedding
from schemas.text import first_fault, subject
from workers.errors import Misconfigured
from workers.pipeline.annotation import Annotation
from workers.pipeline.profiles import Profile
from workers.pipeline.rendering import moment
from workers.ports import Clock, CorrectionLog
from workers.retag.judgement import (
    UNCHANGED,
    Change,
    Fields,
    Judgement,
    NeedReason,
    NeedsImage,
    OutcomeCase,
    Rescored,
    Stays,
    TakenOver,
)
from workers.retag.today import Today
from workers.types import Caption, Coordinates, Document, Headers, LabelScores

_OTHER_PARTS: Final[tuple[Change, ...]] = ("caption", "embedding", "corrections")
_CASES = 10_000
_PAIRS: Final = np.dtype([("id", "<u4"), ("score", "<f4")])


class Retagger:
    """Compares outcomes with what today's settings give.

    Args:
        corrections: what persons said, as far as it was read; None: no topic of it is set.
    """

    def __init__(self, today: Today, corrections: CorrectionLog | None, clock: Clock) -> None:
        self.today = today
        self._corrections = corrections
        self._clock = clock
        self._roles = today.roles()
        self._cases: dict[tuple[Any, ...], OutcomeCase] = {}

    def judge(self, outcome: Fields, headers: Headers, *, as_shown: bool = False) -> Judgement:
        """Judge one enriched image, given as parsed JSON, with its record's headers.

        Args:
            as_shown: by the corrections that it shows, whatever people have said since.

        Raises:
            ValueError: it is no enriched image.
            Misconfigured: its embedding and today's tagger contradict each other about the space.
        """
        try:
            return self._judge(outcome, headers, as_shown)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"an enriched image with another shape: {error!r}") from None

    def document(self, made: Rescored, where: Coordinates, version: int) -> Document:
        """The new event, as it travels.

        Args:
            where: the record that it is made from.
        """
        old, case, profile, subject = made.taken.model_dump(), made.case, made.case.profile, made.outcome["subject"]
        event, source = old["event"], old["source"]
        said = made.parts.get("corrections")
        fields = writing.enriched_image(
            id=enriched_id(
                bucket=source["bucket"],
                key=source["key"],
                version_id=source["version_id"],
                etag=source["etag"],
                sequencer=source["sequencer"],
                event_id=event["id"],
                models=case.models,
                thresholds=Thresholds(profile=profile.name, digest=profile.digest),
                options=case.options,
                status="complete",
                corrections=None if said is None else CorrectedTags(**said),
            ),
            subject=subject,
            document_id=subject,
            version=version,
            status="complete",
            event={**event, "topic": where.topic, "partition": where.partition, "offset": where.offset, "index": 0},
            source=source,
            image=old["image"],
            options=vars(case.options),
            models={use: None if use in case.other else old["models"][use] for use in USES},
            thresholds={"profile": profile.name, "digest": profile.digest},
            timings_ms={},
            produced_at=moment(self._clock.wall()),
            cache=writing.cache(),
            **made.parts,
        )
        value = bytes(memoryview(orjson.dumps(fields)))  # orjson's own bytes keep a larger buffer alive
        return Document("enriched", subject.encode(), value, version=version, stored=_stored(made))

    # ---- cases ------------------------------------------------------------------------------------------------

    def _judge(self, outcome: Fields, headers: Headers, as_shown: bool) -> Judgement:
        case, said, shows = self.case_of(outcome), outcome.get("corrections"), [*outcome["tags"]]
        if isinstance(case.settled, Stays):
            return case.settled
        if outcome["status"] == "partial":
            return NeedsImage("partial", case.options)
        if case.settled is not None:
            return case.settled
        if self._corrections is None and said is not None:
            return Stays("corrections-not-read")
        word = _word_of(said) if as_shown else self.word(outcome["subject"], outcome["source"]["sha256"])
        alike = says(word, said) and self._translated(shows) and self.template_gives(outcome["caption"])
        if case.same and alike:
            return UNCHANGED
        image = Annotation(_event(case.options), case.profile, "", word=word, word_asked=True)
        lacks: NeedReason | None = None
        if case.scored:
            scores = self._scores(header_of(headers, SCORES_HEADER), case.profile)
            if isinstance(scores, LabelScores):
                selected = case.profile.select(scores)
                if case.rethresholded and alike and word is None and _ids(shows) == [label for label, _ in selected]:
                    return UNCHANGED
                image.results["tags"], image.selected = scores, (scores, selected) if word is None else None
            else:
                lacks = scores
        if outcome.get("options") is None:
            return NeedsImage("no-options")
        lacks = lacks or self._fill(image, case, outcome, headers)
        return NeedsImage(lacks, case.options) if lacks else self._compared(image, case, outcome, headers)

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
            models = Models.model_validate(outcome["models"], extra="ignore")
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        want = options.want
        if asked is not None and outcome["event"]["dialect"] == "s3":  # which can't say what it wants
            options = options.model_copy(update={"want": self.today.want})
        profile = self.today.profiles.get(thresholds["profile"])
        if profile is None:
            return OutcomeCase(Stays("unknown-profile"), options)
        other = self._other_models(outcome["models"], None if asked is None else options)
        if "tagger" in other:
            return OutcomeCase(NeedsImage("tagger", options), options)
        if "captioner" in other and self.today.captioner is not None:
            return OutcomeCase(NeedsImage("captioner", options), options)
        alike = not other and options.want == want
        return OutcomeCase(
            None,
            options,
            profile,
            same=alike and profile.digest == thresholds["digest"],
            rethresholded=alike and "tags" in want and "embedding" not in want,
            scored=any(role.name == "tags" for role in self._roles.wanted(options)),
            models=models.model_copy(update=dict.fromkeys(other)),
            other=other,
        )

    def _other_models(self, models: Fields, options: Options | None) -> tuple[str, ...]:
        """Uses of another model today that the event depends on."""
        today = self.today.models
        other = [use for use in USES if _digest(models[use]) != (model.digest if (model := today[use]) else None)]
        return tuple(use for use in other if options is None or _shows(options, use))

    @property
    def corrects(self) -> bool:
        """Whether corrections were read."""
        return self._corrections is not None

    def word(self, subject: str, sha256: str) -> Word | None:
        """What people have said of an image."""
        return None if self._corrections is None else self._corrections.on(subject, sha256)

    def template_gives(self, caption: Fields | None) -> bool:
        """Whether the template still makes this caption; true for a model's, false if there are none today."""
        if self.today.template is None or caption is None:
            return caption is None or self.today.captions
        made = self.today.template(caption["guided_by"])
        return made is not None and made.text == caption["text"]

    def _translated(self, tags: Sequence[Fields]) -> bool:
        """Whether the tags are in all languages of today."""
        first = next((tag for tag in tags if tag["label_id"] is not None), None)
        today = {} if self.today.tagger is None else self.today.tagger.translations
        return first is None or first.get("translations", {}).keys() == today.keys()

    # ---- making anew ------------------------------------------------------------------------------------------

    def _fill(self, image: Annotation, case: OutcomeCase, outcome: Fields, headers: Headers) -> NeedReason | None:
        """Fill in the caption and embedding that the record tells; returns what it lacks."""
        want, caption = case.options.want, outcome["caption"]
        if "caption" in want and self.today.captioner is not None:
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
        """The record's scores, best first, or why they don't tell all tags."""
        tagger = self.today.tagger
        assert tagger is not None
        try:
            stored = PackedScores.decode(value)
        except ValueError:
            return "no-scores"
        if lacks := self.lacks(stored, profile):
            return lacks
        pairs = np.frombuffer(stored.pairs, _PAIRS)
        ids, scores = pairs["id"].astype(np.int32), pairs["score"].astype(np.float32)
        within = np.count_nonzero((scores >= stored.floor) & (scores <= 1) & (ids >= 0) & (ids < len(tagger.labels)))
        if within < len(ids) or np.count_nonzero(scores[1:] > scores[:-1]):
            return "no-scores"
        if stored.floor > np.float32(tagger.floor):  # it had more than it could carry
            hidden = tagger.scored & (profile.thresholds < stored.floor)
            hidden[ids] = False
            if hidden.any():
                return "below-floor"
        return LabelScores(ids, scores)

    def lacks(self, stored: PackedScores, profile: Profile) -> NeedReason | None:
        """Why such scores are of no use."""
        if self.today.tagger is None or stored.tagger != self.today.tagger.digest:
            return "no-scores"
        if stored.labels is not None and (profile.subset is None or profile.subset.digest != stored.labels):
            return "labels"
        return None

    def _embedding(self, outcome: Fields, value: bytes | None) -> Embedding | None:
        """Today's tagger's embedding, from the event or its record.

        Raises:
            Misconfigured: the tagger says that its embeddings are of another space.
        """
        tagger, found = self.today.tagger, outcome.get("embedding")
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
        parts = dict[str, Any]()
        for role in self._roles.all:
            parts.update(role.render(image))
        parts = {name: _plain(value) for name, value in parts.items()}
        caption = parts.get("caption")
        if self.today.captioner is not None and caption and caption["guided_by"] != outcome["caption"]["guided_by"]:
            return NeedsImage("guide", case.options)
        changes = list[Change]()
        if (tags := parts.get("tags", [])) != outcome["tags"]:
            alike = _ids(tags) == _ids(outcome["tags"]) and _untranslated(tags) == _untranslated(outcome["tags"])
            changes.append("translations" if alike else "tags")
        changes += [name for name in _OTHER_PARTS if parts.get(name) != outcome.get(name)]
        if case.other:
            changes.append("models")
        if not changes:
            return UNCHANGED
        try:
            taken = TakenOver.model_validate(outcome, extra="ignore")
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        if outcome["subject"] != subject(taken.source.bucket, taken.source.key):
            raise ValueError("the subject is bucket/key of the source")
        return Rescored(tuple(changes), case, parts, taken, outcome, headers)


def _plain(part: Any) -> Any:
    """As JSON has it."""
    match part:
        case BaseModel():
            return part.model_dump(mode="json")
        case tuple():
            return list(part)
        case {"guided_by": names}:
            return {**part, "guided_by": list(names)}
        case _:
            return part


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
    carried = ((SCORES_HEADER, scores), (EMBEDDING_HEADER, None if made.parts.get("embedding") else embedding))
    return tuple((name, value) for name, value in carried if value is not None)


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


def says(word: Word | None, said: Fields | None) -> bool:
    """Whether an event shows just these corrections."""
    if word is None:
        return said is None
    return said is not None and (list(word.added), list(word.removed)) == (said["added"], said["removed"])


def _untranslated(tags: Sequence[Fields]) -> list[dict[str, Any]]:
    return [{**tag, "translations": None} for tag in tags]


def _word_of(said: Fields | None) -> Word | None:
    return None if said is None else Word(tuple(said["added"]), tuple(said["removed"]))


def _ids(tags: Sequence[Fields]) -> list[int | None]:
    return [tag["label_id"] for tag in tags]


def _event(options: Options) -> ImageEvent:
    """What a role reads of an event, to render it."""
    return ImageEvent("", "own", "enrich", 0, "", "", options=options)
