"""An enriched image is written without its model: what is written is, byte for byte, what the model would write."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from schemas.correction import correction
from schemas.dead_letter import Failure
from schemas.enriched_image import (
    Cache,
    CaptionText,
    CorrectedTags,
    Embedding,
    EnrichedImage,
    EventRef,
    ImageFacts,
    ModelRef,
    Models,
    OutcomeOptions,
    Source,
    Tag,
    Thresholds,
    enriched_id,
    read_output,
)
from schemas.image_event import ImageEvent, Options
from schemas.options import WANTS
from schemas.text import version_or_none
from schemas.version import version_of
from tagstream_testing.memory import ManualClock, MemoryCorrections
from tests.support.harness import EchoCaptioner
from tests.unit.pipeline.test_kinds import ColourEmbedder
from tests.unit.schemas.documents import keys, patient
from workers.errors import Broken
from workers.pipeline.annotation import Annotation
from workers.pipeline.answers import caption_of, scores_of
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import default_profiles
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import make_roles
from workers.pipeline.task import CompleteTask, Task
from workers.types import (
    Assignment,
    Caption,
    Coordinates,
    Document,
    Facts,
    Job,
    LabelScores,
    Partition,
    Record,
)


class Polyglot(ColourEmbedder):
    translations: Mapping[str, Sequence[str]] = {"de": ("rot", "grün", "blau"), "zh": ("红", "绿", "蓝")}


TAGGERS = (ColourEmbedder(), Polyglot())
CAPTIONER = EchoCaptioner()
CLOCK = ManualClock()
FAILED = Failure(index=0, stage="caption", reason="caption-failed", detail="no words")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
short = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
hexadecimal = st.text("0123456789ABCDEFabcdef", min_size=1, max_size=20)
moments = st.datetimes(timezones=st.just(UTC)).map(lambda at: at.isoformat().replace("+00:00", "Z"))
whole = st.integers(0, 2**63 - 1)
options = st.builds(
    Options,
    want=st.sets(st.sampled_from(WANTS), min_size=1).map(tuple),
    guide_tags=st.lists(names, max_size=3).map(tuple),
)
events = st.builds(
    ImageEvent,
    id=short,
    dialect=st.sampled_from(["own", "s3", "cloudevents"]),
    action=st.just("enrich"),
    index=st.integers(0, 9999),
    bucket=st.from_regex("[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True),
    key=keys,
    version_id=st.none() | short,
    etag=st.none() | short,
    sequencer=st.none() | hexadecimal,
    event_time=st.none() | moments,
    options=options,
)
facts = st.builds(
    Facts,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    etag=texts,
    version_id=st.none() | st.just("null") | short,
    last_modified=moments,
    size=st.integers(1, 2**40),
    format=st.sampled_from(["jpeg", "png", "avif"]),
    width=st.integers(1, 2**31),
    height=st.integers(1, 2**31),
    decode_bytes=whole,
)
scores = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).map(
    lambda values: LabelScores(np.arange(3, dtype=np.int32), np.array(values, np.float32))
)
captions = st.builds(
    Caption, texts, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["greedy", "beam"])
)
vectors = st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=3).map(lambda each: np.array(each, np.float16))
said = st.none() | st.lists(st.sampled_from(["red", "blue", "terrier"]), max_size=2, unique=True)


@st.composite
def rendered(draw: st.DrawFn) -> tuple[CompleteTask, Renderer]:
    """A task whose results are known, as far as a draw knows them, and what makes a document of it."""
    event, tagger = draw(events), draw(st.sampled_from(TAGGERS))
    words = MemoryCorrections()
    added = draw(said)
    if added is not None:
        words.produce(correction(event.bucket, event.key, added=added, removed=["green"]))
        words.follow(0)
    roles = make_roles({"tagger": tagger, "captioner": CAPTIONER}, None, words)
    partition = Partition(draw(short), draw(st.integers(0, 999)))
    record = Record(partition, draw(whole), draw(st.integers(-1, 2**63 - 1)), None, b"", (), Assignment(partition, "m"))
    where = Coordinates(partition.topic, partition.number, record.offset, event.index)
    profile = default_profiles(tagger)[draw(st.sampled_from(["default", "paper"]))]
    task = Task(Job(where, record.assignment, event), Entry(record, 0.0), profile, INVALID_SPAN)
    results = {"tags": scores, "caption": captions, "embedding": vectors}
    wanted = {role.name for role in roles.wanted(event.options)}
    known: dict[str, Any] = {name: draw(values) for name, values in results.items() if name in wanted}
    failures: tuple[Failure, ...] = ()
    if draw(st.booleans()):
        known.pop("caption", None)
        failures = (FAILED,)
    of, date = draw(facts), draw(st.none() | moments)
    found = Annotation(event, profile, of.sha256, known, draw(st.sets(st.sampled_from(WANTS))))
    task.source_hit = draw(st.booleans())
    for stage in draw(st.lists(st.sampled_from(["lookup", "fetch", "finish"]))):
        task.took(stage, draw(st.floats(-1, 1e6)))
    made_by = WorkerOptions(output_topic="out", dead_letter_topic="dead")
    return CompleteTask(task, found, of, date, failures), Renderer(
        roles, made_by, {"out": 1 << 20, "dead": 1 << 20}, CLOCK
    )


def as_the_models_would(complete: CompleteTask, tagger: ColourEmbedder) -> EnrichedImage:
    """The document, built from the same task through the models, which check each value."""
    task, found, known = complete.task, complete.annotation, complete.facts
    event, where, word = task.event, task.job.coordinates, found.word
    status: Any = "partial" if complete.failures else "complete"
    models = Models(
        **{
            use: ModelRef(name=model.name, digest=model.digest, precision=model.precision)
            for use, model in (("tagger", tagger), ("captioner", CAPTIONER))
        }
    )
    thresholds = Thresholds(profile=task.profile.name, digest=task.profile.digest)
    corrections = CorrectedTags(added=word.added, removed=word.removed) if word is not None else None
    version_id = version_or_none(known.version_id) or event.version_id
    tags, guide = _tags(found, tagger)
    caption, vector = found.results.get("caption"), found.results.get("embedding")
    levels: dict[str, Any] = {name: "hit" if name in found.hits else "miss" for name in found.results}
    if event.version_id or event.etag:
        levels["source"] = "hit" if task.source_hit else "miss"
    return EnrichedImage(
        id=enriched_id(
            bucket=event.bucket,
            key=event.key,
            version_id=version_id,
            etag=known.etag,
            sequencer=event.sequencer,
            event_id=event.id,
            models=models,
            thresholds=thresholds,
            options=event.options,
            status=status,
            corrections=corrections,
        ),
        subject=event.subject,
        document_id=event.subject,
        version=version_of(
            event.event_time,
            last_modified=known.last_modified,
            date=complete.date if event.version_id is None else None,
            timestamp_ms=task.entry.record.timestamp_ms,
            now_s=CLOCK.wall(),
        ),
        status=status,
        reason=FAILED.reason if complete.failures else None,
        event=EventRef(
            id=event.id,
            dialect=event.dialect,
            time=event.event_time,
            topic=where.topic,
            partition=where.partition,
            offset=where.offset,
            index=where.index,
        ),
        source=Source(
            bucket=event.bucket,
            key=event.key,
            version_id=version_id,
            etag=known.etag,
            sequencer=event.sequencer,
            last_modified=known.last_modified,
            sha256=known.sha256,
        ),
        image=ImageFacts(format=known.format, width=known.width, height=known.height, bytes=known.size),
        tags=tags if "tags" in event.options.want else (),
        caption=CaptionText(text=caption.text, score=caption.score, method=caption.method, guided_by=guide)
        if caption is not None and "caption" in event.options.want
        else None,
        embedding=Embedding(
            space="colours",
            dimensions=3,
            data=b64encode(vector.astype("<f2").tobytes()).decode(),
            model=tagger.digest,
        )
        if vector is not None
        else None,
        corrections=corrections,
        options=OutcomeOptions(**event.options.model_dump()),
        models=models,
        thresholds=thresholds,
        timings_ms=task.timings_ms,
        produced_at=datetime.fromtimestamp(CLOCK.wall(), UTC).isoformat(timespec="milliseconds")[:23] + "Z",
        cache=Cache(**levels),
    )


def _tags(found: Annotation, tagger: ColourEmbedder) -> tuple[tuple[Tag, ...], tuple[str, ...]]:
    """The image's tags, and the names that guide its caption."""
    known, word, labels = found.results.get("tags"), found.word, list(tagger.labels)
    if known is None:
        return (), found.event.options.guide_tags
    added, removed = (word.added, word.removed) if word is not None else ((), ())
    persons = [labels.index(name) for name in labels if name in added]
    models = [
        (label, float(score))
        for label, score in enumerate(known.scores)
        if score > found.profile.thresholds[label] and labels[label] not in (*added, *removed)
    ]
    best_first = sorted(models, key=lambda one: -one[1])
    shown = [(label, 1.0, "person") for label in persons]
    shown += [(label, round(score, 6), None) for label, score in best_first]  # type: ignore[misc]
    tags = [
        Tag(
            name=labels[label],
            score=score,
            label_id=label,
            translations={code: names[label] for code, names in tagger.translations.items()} or None,
            source=source,  # type: ignore[arg-type]
        )
        for label, score, source in shown
    ]
    own = [labels[label] for label in sorted(label for label, *_ in shown)]
    unknown = [name for name in added if name not in labels]
    alone = [Tag(name=name, score=1.0, label_id=None, source="person") for name in unknown]
    return (*tags[: len(persons)], *alone, *tags[len(persons) :]), found.event.options.guide_tags or tuple(
        own + unknown
    )


@pytest.mark.slow
@patient
@given(rendered())
def test_what_is_written_is_what_the_model_would_write(made: tuple[CompleteTask, Renderer]) -> None:
    task, renderer = made
    document, *_ = renderer.outcomes(task)
    assert isinstance(document, Document)
    [tagger] = [each for each in TAGGERS if any(role.model is each for role in renderer._roles.models)]
    expected = as_the_models_would(task, tagger)
    assert document.value == expected.to_bytes()
    assert read_output(document.value) == expected
    assert document.version == expected.version
    assert (document.key, document.kind == "partial") == (expected.message_key, expected.status == "partial")


class SaysScores(ColourEmbedder):
    def postprocess(self, raw: Any) -> LabelScores:
        return LabelScores(np.array([0], np.int32), np.array([raw], np.float32))


class SaysCaptions(EchoCaptioner):
    def postprocess(self, raw: Any) -> Caption:
        return raw  # type: ignore[no-any-return]


@pytest.mark.parametrize("score", [-0.001, 1.001])
def test_a_score_that_could_not_be_published_is_the_models_mistake(score: float) -> None:
    assert [scores_of(SaysScores(), bound).scores[0] for bound in (0, 1)] == [0, 1]
    with pytest.raises(Broken, match=r"the model colours returned scores from .*, outside 0 to 1"):
        scores_of(SaysScores(), score)


@pytest.mark.parametrize(
    ("text", "score", "method", "said"),
    [
        ("a cat", float("nan"), "greedy", "score: "),
        ("a cat", float("-inf"), "greedy", "score: "),
        ("a cat", "low", "greedy", "score: "),
        ("a \ud800", None, "greedy", "Error serializing to JSON"),
        (7, None, "greedy", "text: "),
        ("a cat", None, None, "method: "),
    ],
)
def test_a_caption_that_could_not_be_published_is_the_models_mistake(
    text: Any, score: Any, method: Any, said: str
) -> None:
    with pytest.raises(Broken, match=rf"the model echo returned a caption that can't be published \({said}"):
        caption_of(SaysCaptions(), Caption(text, score, method))


def test_a_captions_score_is_a_plain_number() -> None:
    score = caption_of(SaysCaptions(), Caption("a cat", np.float64(-0.5), "greedy")).score
    assert type(score) is float
