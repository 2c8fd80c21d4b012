"""The fast rendering of an enriched image equals its pydantic model's, byte for byte."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from schemas.correction import correction
from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, read_output
from schemas.image_event import ImageEvent, Options
from schemas.options import WANTS
from schemas.stored_scores import StoredEmbedding
from tagstream_testing.memory import ManualClock
from tests.support.corrections import said
from tests.support.harness import EchoCaptioner
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.unit.pipeline.test_kinds import ColourEmbedder
from tests.unit.schemas.documents import keys, patient
from workers.errors import Broken
from workers.pipeline.annotation import Annotation
from workers.pipeline.answers import caption_of
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.kind_role import KindRole
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import default_profiles
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import make_roles
from workers.pipeline.task import CompleteTask, Task
from workers.types import Assignment, Caption, Coordinates, Document, Facts, Job, LabelScores, Partition, Record


class Polyglot(ColourEmbedder):
    translations: Mapping[str, Sequence[str]] = {"de": ("rot", "grün", "blau"), "zh": ("红", "绿", "蓝")}


TAGGERS = (ColourEmbedder(), Polyglot())
CAPTIONER = EchoCaptioner()
ADDED = KindRole(BrightnessKind(), BrightnessModel())
WANTED = (*WANTS, ADDED.name, "absent")
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
    want=st.sets(st.sampled_from(WANTED), min_size=1).map(tuple),
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
vectors = st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=3).map(
    lambda each: StoredEmbedding(ColourEmbedder.digest, "colours", np.array(each, "<f2").tobytes())
)
bright = st.builds(lambda mean: ADDED.finish((mean, ("png", 1, 2, None))), st.floats(0, 255))
added_tags = st.none() | st.lists(st.sampled_from(["red", "blue", "terrier"]), max_size=2, unique=True)


@st.composite
def rendered(draw: st.DrawFn) -> tuple[CompleteTask, Renderer]:
    event, tagger = draw(events), draw(st.sampled_from(TAGGERS))
    added = draw(added_tags)
    words = [] if added is None else [correction(event.bucket, event.key, added=added, removed=["green"])]
    roles = make_roles({"tagger": tagger, "captioner": CAPTIONER}, None, said(*words), added=[ADDED])
    partition = Partition(draw(short), draw(st.integers(0, 999)))
    record = Record(partition, draw(whole), draw(st.integers(-1, 2**63 - 1)), None, b"", (), Assignment(partition, "m"))
    where = Coordinates(partition.topic, partition.number, record.offset, event.index)
    profile = default_profiles(tagger)[draw(st.sampled_from(["default", "paper"]))]
    task = Task(Job(where, record.assignment, event), Entry(record, 0.0), profile, INVALID_SPAN)
    results = {"tags": scores, "caption": captions, "embedding": vectors, ADDED.name: bright}
    wanted = {role.name for role in roles.wanted(event.options)}
    known: dict[str, Any] = {name: draw(values) for name, values in results.items() if name in wanted}
    failures: tuple[Failure, ...] = ()
    if draw(st.booleans()):
        known.pop("caption", None)
        failures = (FAILED,)
    of, date = draw(facts), draw(st.none() | moments)
    found = Annotation(event, profile, of.sha256, known, draw(st.sets(st.sampled_from(WANTED))))
    task.source_hit = draw(st.booleans())
    for stage in draw(st.lists(st.sampled_from(["lookup", "fetch", "finish"]))):
        task.took(stage, draw(st.floats(-1, 1e6)))
    made_by = WorkerOptions(output_topic="out", dead_letter_topic="dead")
    return CompleteTask(task, found, of, date, failures), Renderer(
        roles, made_by, {"out": 1 << 20, "dead": 1 << 20}, CLOCK
    )


@pytest.mark.slow
@patient
@given(rendered())
def test_the_written_bytes_equal_the_models_bytes(made: tuple[CompleteTask, Renderer]) -> None:
    complete, renderer = made
    document, *_ = renderer.outcomes(complete)
    assert isinstance(document, Document)
    image = read_output(document.value)
    assert isinstance(image, EnrichedImage)
    assert image.to_bytes() == document.value
    assert (image.message_key, image.version, image.status == "partial") == (
        document.key,
        document.version,
        document.kind == "partial",
    )
    event, known, where = complete.task.event, complete.facts, complete.task.job.coordinates
    assert (image.event.id, image.event.time, image.event.index) == (event.id, event.event_time, where.index)
    assert (image.source.etag, image.source.sha256, image.source.sequencer) == (
        known.etag,
        known.sha256,
        event.sequencer,
    )
    assert (image.image.width, image.image.height, image.image.bytes) == (known.width, known.height, known.size)
    results = complete.annotation.results
    assert (image.embedding is not None) == ("embedding" in results)
    assert (image.results is not None) == (ADDED.name in results)
    assert (image.reason == "role-not-here") == ("absent" in event.options.want and not complete.failures)
    text = results["caption"].text if "caption" in results else None
    assert (image.caption.text if image.caption else None) == text


class SaysCaptions(EchoCaptioner):
    def postprocess(self, raw: Any) -> Caption:
        return raw  # type: ignore[no-any-return]


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
