"""Judges one record: what today's settings make of its outcome.

What an outcome becomes is rendered by the worker's own roles, from the scores that its record carries.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
import orjson
from pydantic import ValidationError

from schemas import stored_scores, writing
from schemas.correction import Word
from schemas.enriched_image import USES, CorrectedTags, Embedding, Models, Thresholds, enriched_id
from schemas.image_event import ImageEvent
from schemas.options import Options
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, PackedScores, StoredEmbedding
from schemas.text import first_fault, subject
from workers.errors import Misconfigured
from workers.pipeline.annotation import Annotation
from workers.pipeline.profiles import Profile
from workers.pipeline.rendering import moment
from workers.ports import Clock, CorrectionLog
from workers.retag.carried import Scores, Vector, embedded, header_of, pairs_of, stored_headers, with_scores
from workers.retag.judgement import (
    UNCHANGED,
    Change,
    Fields,
    Judgement,
    Kind,
    Made,
    NeedReason,
    OutcomeCase,
    TakenOver,
)
from workers.retag.today import Today
from workers.types import Caption, Coordinates, Document, Headers, LabelScores

_OTHER_PARTS: Final[tuple[Change, ...]] = ("caption", "embedding", "corrections")
_CASES: Final = 10_000
_TAGS, _TAGS_END = b'"tags":[', b'],"caption":'
_LABEL: Final = re.compile(rb'"label_id":(\d+)')
_OTHER_TAGS: Final = Kind("rescore", "tags")
_WRONG_SHAPE: Final = (KeyError, TypeError, AttributeError, IndexError)
_NONE: Final = LabelScores(np.empty(0, np.int32), np.empty(0, np.float32))


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
        tagger = today.tagger
        self._labels, self._floor = (
            (0, 0.0) if tagger is None else (len(tagger.labels), float(np.float32(tagger.floor)))
        )
        self._languages = {}.keys() if tagger is None else tagger.translations.keys()
        self._label_texts = [b"%d" % label for label in range(self._labels)]
        self._tag = _tag_in(self._languages)
        self._parents: Sequence[Sequence[str]] = () if tagger is None else tagger.parents
        self._parent_texts = {
            label: b'"parents":' + orjson.dumps(names)
            for label, names in zip(self._label_texts, self._parents, strict=False)
            if names
        }

    def judge(
        self, outcome: Fields, headers: Headers, *, as_shown: bool = False, rescored: bytes | None = None
    ) -> Judgement:
        """Judge one enriched image, given as parsed JSON, with its record's headers.

        Args:
            as_shown: by the corrections that it shows, whatever people have said since.
            rescored: today's scores header by its vector, where that is known.

        Raises:
            ValueError: it is no enriched image.
            Misconfigured: its embedding and today's tagger contradict each other about the space.
        """
        try:
            if (vector := self.vector_of(outcome, headers)) is not None:
                assert self.today.tagger is not None
                headers = with_scores(headers, rescored or self.today.tagger.rescore(vector[None])[0])
            return self._judge(outcome, headers, as_shown)
        except _WRONG_SHAPE as error:
            raise ValueError(f"an enriched image with another shape: {error!r}") from None

    def vector_of(self, outcome: Fields, headers: Headers) -> Vector | None:
        """The record's vector, if today's labels are scored from it."""
        if self._case_of(outcome).rescored is None:
            return None
        assert self.today.tagger is not None
        return embedded(outcome, header_of(headers, EMBEDDING_HEADER), self.today.tagger)

    def glance(self, value: bytes, headers: Headers) -> tuple[Fields, Kind] | None:
        """Judge an enriched image without parsing its tags.

        They are most of it. Workers write all fields in one order without blanks, and a quotation mark inside of a
        string is always escaped.

        Returns:
            Its fields, with no tags, and what `judge` would say; None: parsing all of it will tell.
        """
        begin = value.find(_TAGS) + len(_TAGS)
        end = value.find(_TAGS_END, begin)
        tags = value[begin:end]
        if begin < len(_TAGS) or end < 0 or (tags and self._tag.match(tags) is None):
            return None
        labels = _LABEL.findall(tags)
        parents = next((self._parent_texts[label] for label in labels if label in self._parent_texts), None)
        if b'"parents":' in tags if parents is None else parents not in tags:
            return None
        try:
            outcome = read_document(value[:begin] + value[end:])
            kind = self._glance(outcome, labels, headers)
        except (ValueError, *_WRONG_SHAPE):
            return None
        return None if kind is None else (outcome, kind)

    def document(self, made: Made, where: Coordinates, version: int) -> Document:
        """The new event, as it travels.

        Args:
            where: the record that it is made from.
        """
        old, case, profile, name = made.taken, made.case, made.case.profile, made.outcome["subject"]
        event, source, said = old.event, old.source, made.parts["corrections"]
        models = {use: None if use in case.other else getattr(old.models, use) for use in USES}
        if case.rescored is not None and old.models.tagger is not None:
            models["tagger"] = case.rescored.model_copy(update={"precision": old.models.tagger.precision})
        fields = writing.enriched_image(
            id=enriched_id(
                bucket=source.bucket,
                key=source.key,
                version_id=source.version_id,
                etag=source.etag,
                sequencer=source.sequencer,
                event_id=event.id,
                models=case.models,
                thresholds=Thresholds.model_construct(profile=profile.name, digest=profile.digest),
                options=case.options,
                status="complete",
                corrections=None if said is None else CorrectedTags(**said),
            ),
            subject=name,
            document_id=name,
            version=version,
            status="complete",
            event={**vars(event), **{name: getattr(where, name) for name in ("topic", "partition", "offset", "index")}},
            source=vars(source),
            image=vars(old.image),
            options=vars(case.options),
            models={use: None if model is None else vars(model) for use, model in models.items()},
            thresholds={"profile": profile.name, "digest": profile.digest},
            timings_ms={},
            produced_at=moment(self._clock.wall()),
            cache=writing.cache(),
            **made.parts,
        )
        value = bytes(memoryview(orjson.dumps(fields)))  # orjson's own bytes keep a larger buffer alive
        return Document("enriched", name.encode(), value, version=version, stored=stored_headers(made))

    # ---- cases ------------------------------------------------------------------------------------------------

    def _glance(self, outcome: Fields, labels: list[bytes], headers: Headers) -> Kind | None:
        case, caption = self._case_of(outcome), outcome["caption"]
        if (outcome["schema"], outcome["status"]) != ("enriched-image/1", "complete"):
            return None
        if outcome.get("corrections") is not None or outcome.get("options") is None:
            return None
        if case.settled is not None:
            return case.settled
        if self._word(outcome) is not None or not (case.same or case.rethresholded):
            return None
        if not case.same:
            scores = self._scores(header_of(headers, SCORES_HEADER), case)
            if isinstance(scores, str):
                return Kind("image", scores)
            limits, names = case.limits, self._label_texts
            if labels != [names[i] for i, score in zip(*scores, strict=True) if score > limits[i]]:
                return case.changed if (caption is None) == (case.changed == _OTHER_TAGS) else None
        return UNCHANGED.kind if self._captioned(caption) else None

    def _judge(self, outcome: Fields, headers: Headers, as_shown: bool) -> Judgement:
        case, said, shows = self._case_of(outcome), outcome.get("corrections"), outcome["tags"]
        caption, asked = outcome["caption"], outcome.get("options")
        if case.settled is not None and case.settled.fate == "stays":
            return Judgement(case.settled)
        if outcome["status"] == "partial":
            return _needs("partial", case.options)
        if case.settled is not None:
            return Judgement(case.settled, case.options)
        if self._corrections is None and said is not None:
            return Judgement(Kind("stays", "corrections-not-read"))
        word = _word_of(said) if as_shown else self._word(outcome)
        told = word == _word_of(said)
        if case.same and told and self._translated(shows) and self._captioned(caption):
            return UNCHANGED
        scores = self._scores(header_of(headers, SCORES_HEADER), case) if case.scored else None
        if isinstance(scores, str) and case.rescored is not None:
            return _needs("tagger", case.options)
        if isinstance(scores, Scores) and not scores.are_sound(self._labels):
            scores = "no-scores"
        shown = list[tuple[int, float]]()
        if isinstance(scores, Scores):
            limits = case.limits
            shown = [(i, score) for i, score in zip(*scores, strict=True) if score > limits[i]]
            if case.rethresholded and told and word is None:
                alike = [tag["label_id"] for tag in shows] == [i for i, _ in shown]
                if alike and self._translated(shows) and self._captioned(caption):
                    return UNCHANGED
        if asked is None:
            return _needs("no-options")
        if isinstance(scores, str):
            return _needs(scores, case.options)
        image = Annotation(_event(case.options), case.profile, "", word=word, word_asked=True)
        if scores is not None:
            if word is None:
                image.results["tags"], image.selected = _NONE, (_NONE, [(i, round(score, 6)) for i, score in shown])
            else:
                image.results["tags"] = LabelScores(np.array(scores.ids, np.int32), np.array(scores.values, np.float32))
        lacks = self._fill(image, case, outcome, headers)
        return _needs(lacks, case.options) if lacks else self._compared(image, case, outcome, headers)

    def _case_of(self, outcome: Fields) -> OutcomeCase:
        models, thresholds, asked = outcome["models"], outcome["thresholds"], outcome.get("options")
        key = (
            _digest(models["tagger"]),
            _digest(models["captioner"]),
            thresholds["profile"],
            thresholds["digest"],
            outcome["event"]["dialect"] == "s3",
            None if asked is None else (tuple(asked["want"]), tuple(asked["guide_tags"]), asked["profile"]),
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
            return OutcomeCase(options, Kind("stays", "unknown-profile"))
        other = self._other_models(outcome["models"], None if asked is None else options)
        tagger = self.today.tagger
        ref = tagger.reference if "tagger" in other and tagger is not None and asked is not None else None
        if "tagger" in other and ref is None:
            return OutcomeCase(options, Kind("image", "tagger"))
        if "captioner" in other and self.today.captioner is not None:
            return OutcomeCase(options, Kind("image", "captioner"))
        alike = not other and options.want == want
        rethresholded = alike and "tags" in want and "embedding" not in want
        return OutcomeCase(
            options,
            profile=profile,
            limits=tuple(profile.thresholds.tolist()),
            same=alike and profile.digest == thresholds["digest"],
            rethresholded=rethresholded,
            changed=self._changed(options) if rethresholded and asked is not None else None,
            scored=any(role.name == "tags" for role in self._roles.wanted(options)),
            models=models.model_copy(update={**dict.fromkeys(other), **({} if ref is None else {"tagger": ref})}),
            other=other,
            rescored=ref,
        )

    def _other_models(self, models: Fields, options: Options | None) -> tuple[str, ...]:
        """Uses of another model today that the event depends on."""
        today = self.today.models
        other = [use for use in USES if _digest(models[use]) != (model.digest if (model := today[use]) else None)]
        return tuple(use for use in other if options is None or _shows(options, use))

    def _changed(self, options: Options) -> Kind | None:
        """What other labels make of an outcome with these options."""
        today = self.today
        if today.tagger is None or len(set(today.tagger.labels)) < self._labels:  # other labels, perhaps the same names
            return None
        if "caption" not in options.want or not today.captions:
            return _OTHER_TAGS
        if options.guide_tags:
            return None
        return Kind("rescore", "tags,caption") if today.template is not None else Kind("image", "guide")

    def _word(self, outcome: Fields) -> Word | None:
        """What people have said of an image."""
        log = self._corrections
        return None if log is None else log.on(outcome["subject"], outcome["source"]["sha256"])

    def _translated(self, tags: Sequence[Fields]) -> bool:
        """Whether the tags have the languages and parents of today."""
        known = [tag for tag in tags if tag["label_id"] is not None]
        if known and known[0].get("translations", {}).keys() != self._languages:
            return False
        return all(tag.get("parents", []) == self._parents_of(tag["label_id"]) for tag in known)

    def _parents_of(self, label: int) -> Sequence[str]:
        return self._parents[label] if label < len(self._parents) else []

    def _captioned(self, caption: Fields | None) -> bool:
        """Whether the template still makes this caption; true for a model's, false if there are none today."""
        today = self.today
        if today.template is None or caption is None:
            return caption is None or today.captions
        made = today.template(caption["guided_by"])
        return made is not None and made.text == caption["text"]

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

    def _scores(self, value: bytes | None, case: OutcomeCase) -> Scores | NeedReason:
        """The record's scores, or why they don't tell all tags."""
        known = stored_scores.SCORES_AT
        if value is None or not known <= len(value) <= stored_scores.SCORES_BYTES_MAX:
            return "no-scores"
        begin = known + value[known - 1]
        head, pairs = value[:begin], value[begin:]
        floor = case.floors.get(head)
        if floor is None:
            if len(case.floors) >= _CASES:
                case.floors.clear()
            floor = case.floors[head] = self._floor_of(head, case.profile)
        if isinstance(floor, str):
            return floor
        if len(pairs) % 8:
            return "no-scores"
        numbers = pairs_of(len(pairs) // 8).unpack(pairs)
        ids, scores = numbers[::2], numbers[1::2]
        if ids and not (scores[0] <= 1 and scores[-1] >= floor):
            return "no-scores"
        if floor > self._floor:  # it had more than it could carry
            assert self.today.tagger is not None
            hidden = self.today.tagger.scored & (case.profile.thresholds < floor)
            hidden[[*ids]] = False
            if hidden.any():
                return "below-floor"
        return Scores(ids, scores)

    def _floor_of(self, head: bytes, profile: Profile) -> float | NeedReason:
        """What all scores behind this reach, or a fault."""
        try:
            stored = PackedScores.decode(head)
        except ValueError:
            return "no-scores"
        if self.today.tagger is None or stored.tagger != self.today.tagger.digest:
            return "no-scores"
        if stored.labels is not None and (profile.subset is None or profile.subset.digest != stored.labels):
            return "labels"
        return stored.floor

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
        if found["model"] != tagger.embedding_model:
            return None
        if tagger.space is not None and found["space"] != tagger.space:
            raise Misconfigured(
                f"{outcome['subject']}: its embedding is a point in the space {found['space']!r}, and {tagger.name}, "
                f"which made it, has the space {tagger.space!r}: vectors of two spaces can't be compared. "
                "Import the model under another digest, or tag these images anew."
            )
        return Embedding.model_validate(found)

    def _compared(self, image: Annotation, case: OutcomeCase, outcome: Fields, headers: Headers) -> Judgement:
        parts = self._rendered(image)
        caption, tags, changes = parts["caption"], parts["tags"], list[Change]()
        if self.today.captioner is not None and caption and caption["guided_by"] != outcome["caption"]["guided_by"]:
            return _needs("guide", case.options)
        if tags != (old := outcome["tags"]):
            alike = len(tags) == len(old) and _untranslated(tags) == _untranslated(old)
            changes.append("translations" if alike else "tags")
        changes += [name for name in _OTHER_PARTS if parts[name] != outcome.get(name)]
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
        made = Made(case, parts, taken, outcome, headers)
        return Judgement(Kind("rescore", ",".join(changes), parts["embedding"] is not None), case.options, made)

    def _rendered(self, image: Annotation) -> dict[str, Any]:
        """The roles' parts as JSON has them, and the kept embedding."""
        parts = dict[str, Any]()
        for role in self._roles.all:
            parts.update(role.render(image))
        caption, said, embedding = parts.get("caption"), parts.get("corrections"), image.results.get("embedding")
        return {
            "tags": [*parts.get("tags", ())],
            "caption": None if caption is None else {**caption, "guided_by": [*caption["guided_by"]]},
            "embedding": None if embedding is None else embedding.model_dump(mode="json"),
            "corrections": None if said is None else said.model_dump(mode="json"),
        }


def read_document(value: bytes) -> dict[str, Any]:
    """A record's JSON object, unchecked.

    Raises:
        ValueError: it is none.
    """
    document = orjson.loads(value)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def _tag_in(languages: Iterable[str]) -> re.Pattern[bytes]:
    """A tagger's tag in these languages, as workers write it."""
    names = b",".join(rb'"%b":"[^"\\]*"' % re.escape(code.encode()) for code in languages)
    translations = rb',"translations":\{%b\}' % names if names else b""
    parents = rb'(?:,"parents":\[(?:"[^"\\]*",?)+\])?'
    return re.compile(rb'\{"name":"[^"\\]*","score":[0-9.e-]+,"label_id":\d+%b%b\}' % (translations, parents))


def _needs(reason: NeedReason, options: Options | None = None) -> Judgement:
    return Judgement(Kind("image", reason), options)


def _shows(options: Options, use: str) -> bool:
    """Whether an event with these options depends on a model's result."""
    want = options.want
    if use == "captioner":
        return "caption" in want
    return "tags" in want or "embedding" in want or not options.guide_tags


def _digest(model: Fields | None) -> str | None:
    return None if model is None else cast(str, model["digest"])


def _untranslated(tags: Sequence[Fields]) -> list[dict[str, Any]]:
    return [{**tag, "translations": None} for tag in tags]


def _word_of(said: Fields | None) -> Word | None:
    """The corrections that an event shows."""
    return None if said is None else Word(tuple(said["added"]), tuple(said["removed"]))


@lru_cache(maxsize=_CASES)
def _event(options: Options) -> ImageEvent:
    """What a role reads of an event, to render it."""
    return ImageEvent("", "own", "enrich", 0, "", "", options=options)
