"""What leaves for a record: every field of an outcome, the messages that its topics take, and its dead letter."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opentelemetry.trace import INVALID_SPAN

from schemas.dead_letter import Failure, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from schemas.image_event import ImageEvent
from tagstream_testing.memory import ManualClock
from tests.support.harness import ColourTagger, EchoCaptioner
from tests.support.readers import read
from workers.pipeline.annotation import Annotation
from workers.pipeline.commit.ledger import Entry, Ledger, Rendered
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import default_profiles
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import make_roles
from workers.pipeline.task import AnnotatedTask, CompleteTask, DecodedTask, Task
from workers.types import (
    Assignment,
    Caption,
    Coordinates,
    Document,
    Facts,
    Job,
    LabelScores,
    Message,
    Outcome,
    Partition,
    Record,
)

TAGGER = ColourTagger()
ROLES = make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()})
FACTS = Facts("a" * 64, "read-etag", "read-version", "2026-01-01T00:00:00Z", 100, "png", 8, 6, 1000)
EVENT = ImageEvent(
    id="e1",
    dialect="own",
    action="enrich",
    index=2,
    bucket="photos",
    key="a.png",
    version_id="event-version",
    etag="event-etag",
    sequencer="0A",
    event_time="2026-01-02T00:00:00Z",
)
AT_EVENT = 1_767_312_000_000_000
WHERE = Coordinates("in", 1, 7, 2)
CAPTION_FAILED = Failure(index=2, stage="caption", reason="caption-failed", detail="no words")
LIMITS = {"out": 1 << 20, "skips": 1 << 20, "dead": 1 << 20}


def renderer(limits: Mapping[str, int] = LIMITS, skipped_topic: str = "skips", tombstones: bool = False) -> Renderer:
    options = WorkerOptions(
        output_topic="out",
        dead_letter_topic="dead",
        skipped_topic=skipped_topic,
        tombstones=tombstones,
        worker_version="1.2.3",
    )
    return Renderer(ROLES, options, limits, ManualClock())


def entry(**more: Any) -> Entry:
    partition = Partition("in", 1)
    return Entry(Record(partition, 7, 0, b"k", b"{}", (), Assignment(partition, "m")), 0.0, **more)


def task(
    event: ImageEvent = EVENT,
    facts: Facts = FACTS,
    date: str | None = None,
    without: Collection[str] = (),
    failures: tuple[Failure, ...] = (),
) -> CompleteTask:
    made = entry()
    job = Job(WHERE, made.record.assignment, event)
    done = Task(job, made, default_profiles(TAGGER)["default"], INVALID_SPAN)
    done.took("fetch", 0.25)
    results = {
        "tags": LabelScores(np.array([0, 2], np.int32), np.array([0.9, 0.2], np.float32)),
        "caption": Caption("saw red", -0.5, "greedy"),
    }
    known = {name: result for name, result in results.items() if name not in without}
    return CompleteTask(done, Annotation(event, done.profile, facts.sha256, known), facts, date, failures)


def rendered_image(of: CompleteTask) -> EnrichedImage:
    [outcome] = renderer().outcomes(of)
    image = read(outcome)
    assert isinstance(image, EnrichedImage)
    return image


def test_an_enriched_image_names_its_content_and_its_models() -> None:
    image = rendered_image(task())
    shown = image.model_dump(exclude_none=True, exclude={"id", "produced_at", "models", "tags"})
    thresholds = default_profiles(TAGGER)["default"]
    assert shown == {
        "schema": "enriched-image/1",
        "subject": "photos/a.png",
        "document_id": "photos/a.png",
        "version": AT_EVENT,
        "status": "complete",
        "event": {
            "id": "e1",
            "dialect": "own",
            "topic": "in",
            "partition": 1,
            "offset": 7,
            "index": 2,
            "time": "2026-01-02T00:00:00Z",
        },
        "source": {
            "bucket": "photos",
            "key": "a.png",
            "version_id": "read-version",
            "etag": "read-etag",
            "sequencer": "0A",
            "last_modified": "2026-01-01T00:00:00Z",
            "sha256": "a" * 64,
        },
        "image": {"format": "png", "width": 8, "height": 6, "bytes": 100},
        "options": {"want": ("tags", "caption"), "guide_tags": ()},
        "thresholds": {"profile": "default", "digest": thresholds.digest},
        "timings_ms": {"fetch": 250.0},
        "cache": {"source": "miss", "tags": "miss", "caption": "miss"},
        "caption": {"text": "saw red", "score": -0.5, "method": "greedy", "guided_by": ("red",)},
    }
    assert [tag.name for tag in image.tags] == ["red"]
    assert image.models.tagger is not None
    assert (image.models.tagger.name, image.models.tagger.digest) == ("colours", "c" * 64)


@pytest.mark.parametrize(
    ("read", "said", "shown"),
    [("v2", "v1", "v2"), ("v2", None, "v2"), (None, "v1", "v1"), ("null", "v1", "v1"), ("null", None, None)],
)
def test_the_version_is_the_read_objects_or_else_the_events(
    read: str | None, said: str | None, shown: str | None
) -> None:
    image = rendered_image(task(replace(EVENT, version_id=said), replace(FACTS, version_id=read)))
    assert image.source.version_id == shown
    assert (image.id == rendered_image(task(facts=replace(FACTS, version_id="v2"))).id) == (shown == "v2")


def test_the_time_is_the_clocks_in_utc() -> None:
    assert rendered_image(task()).produced_at.endswith("Z")
    assert len(rendered_image(task()).produced_at) == len("2026-01-01T00:00:00.000Z")


def test_known_results_are_named_and_the_source_only_if_an_event_could_find_it() -> None:
    hit = task()
    hit.task.source_hit, hit.annotation.hits = True, {"tags"}
    cache = rendered_image(hit).cache
    assert (cache.source, cache.tags, cache.caption) == ("hit", "hit", "miss")
    by_etag = task(replace(EVENT, version_id=None))
    assert rendered_image(by_etag).cache.source == "miss"
    assert rendered_image(task(replace(EVENT, etag=None))).cache.source == "miss"
    assert rendered_image(task(replace(EVENT, version_id=None, etag=None))).cache.source is None


def test_an_image_without_an_optional_result_is_partial_with_a_reason() -> None:
    lacks = task(without=("caption",), failures=(CAPTION_FAILED,))
    image, failure = map(read, renderer().outcomes(lacks))
    assert isinstance(image, EnrichedImage)
    assert (image.status, image.reason, image.caption, failure) == ("partial", "caption-failed", None, CAPTION_FAILED)
    assert image.cache.caption is None


def test_an_image_without_tags_is_no_outcome() -> None:
    lost = Failure(index=2, stage="annotate", reason="annotate-failed", detail="x", want="tags")
    assert renderer().outcomes(task(failures=(CAPTION_FAILED, lost))) == (lost,)


def test_answers_become_results_once_and_do_not_take_the_place_of_known_ones() -> None:
    known = task(without=("caption",))
    decoded = DecodedTask(known.task, known.annotation, FACTS, None, {})
    answers = {"tags": np.array([np.nan]), "caption": Caption("of the device", None, "greedy")}
    attempt = decoded.attempt()
    attempt.answers |= answers
    done = renderer().postprocess(AnnotatedTask(decoded, attempt))
    assert done.annotation.results["tags"] is known.annotation.results["tags"]
    assert done.annotation.results["caption"].text == "of the device"
    assert "caption" not in known.annotation.results, "another attempt begins with what was known before"


DATE = "2026-01-02T00:00:05Z"


@pytest.mark.parametrize(
    ("event", "date", "version"),
    [
        (EVENT, DATE, AT_EVENT),  # read by version id, which says nothing about the object's present state
        (replace(EVENT, version_id=None), DATE, AT_EVENT + 5_000_000),
        (replace(EVENT, version_id=None), None, AT_EVENT),
        (replace(EVENT, event_time=None), None, AT_EVENT - 86_400_000_000),
    ],
)
def test_an_images_version_is_when_its_state_held(event: ImageEvent, date: str | None, version: int) -> None:
    assert rendered_image(task(event, date=date)).version == version
    from_the_cache = task(event)
    assert rendered_image(from_the_cache).version == (AT_EVENT if event.event_time else version)


@pytest.mark.parametrize(
    ("time", "date", "version"),
    [(EVENT.event_time, None, AT_EVENT), (EVENT.event_time, DATE, AT_EVENT + 5_000_000), (None, None, 123_000)],
)
def test_a_retractions_version_is_when_the_object_was_gone(time: str | None, date: str | None, version: int) -> None:
    document = renderer().retraction(WHERE, replace(EVENT, event_time=time), 123, date)
    gone = read(document)
    assert isinstance(gone, Retraction)
    assert document.version == gone.version == version


@pytest.mark.parametrize(("one_version", "scope"), [(True, "version"), (False, "object")])
def test_a_retraction_names_the_removed_object(one_version: bool, scope: str) -> None:
    gone = read(renderer().retraction(WHERE, replace(EVENT, action="retract", versioned_removal=one_version), 0))
    assert isinstance(gone, Retraction)
    assert (gone.scope, gone.subject, gone.event.offset, gone.event.index) == (scope, "photos/a.png", 7, 2)
    assert gone.document_id == ("photos?versionId=event-version/a.png" if one_version else "photos/a.png")
    assert gone.source.model_dump() == {
        "bucket": "photos",
        "key": "a.png",
        "version_id": "event-version",
        "sequencer": "0A",
    }


def test_a_skip_has_its_subject_if_it_is_known() -> None:
    of_event = read(renderer().skip(WHERE, EVENT, "stale", subject="other"))
    assert isinstance(of_event, Skip)
    assert (of_event.event.id, of_event.subject, of_event.reason) == ("e1", "photos/a.png", "stale")
    of_none = read(renderer().skip(WHERE, None, "event-type", subject="photos/b.png"))
    assert isinstance(of_none, Skip)
    assert (of_none.event.id, of_none.subject) == ("in:1:7:2", "photos/b.png")
    assert (of_none.event.partition, of_none.event.index) == (1, 2)


def travelling(of: Entry, *outcomes: Outcome, by: Renderer) -> list[Message]:
    for index, outcome in enumerate(outcomes):
        of.outcomes[index] = by.rendered(of, index, [outcome])
    return by.messages(of)


def test_each_kind_goes_to_its_topic_with_inherited_headers_and_the_dead_letter_comes_last() -> None:
    by = renderer()
    [image] = by.outcomes(task())
    assert isinstance(image, Document)
    gone, skip = by.retraction(WHERE, EVENT, 0), by.skip(WHERE, EVENT, "stale")
    failure = Failure(index=0, stage="fetch", reason="unreadable", detail="x")
    of = entry(
        trace=(("traceparent", b"record's"),), input_key=(("key", b"k"),), traces={2: (("traceparent", b"own"),)}
    )
    first, second, third, dead = travelling(of, failure, gone, image, skip, by=by)
    assert [each.topic for each in (first, second, third, dead)] == ["out", "out", "skips", "dead"]
    version = ("tagstream-version", str(AT_EVENT).encode())
    assert first.headers == (("key", b"k"), ("traceparent", b"record's"), version)
    assert second.headers == (("traceparent", b"own"), version, *image.stored)
    assert third.headers == (("traceparent", b"record's"),)
    models = [read_output(each.value or b"") for each in (first, second, third)]
    assert models == [read(gone), read(image), read(skip)]
    assert [first.key, second.key, third.key] == [model.message_key for model in models]
    letter = read_dead_letter_headers(dead.headers)
    assert (letter.failures, letter.worker) == ((failure,), "1.2.3")
    assert letter.models == {"tagger": f"colours {'c' * 12}", "captioner": f"echo {'e' * 12}"}
    assert dead.value == b"{}"


def test_each_outcome_counts_under_its_kind() -> None:
    by, whole = renderer(), task()
    lacks = task(failures=(CAPTION_FAILED,))
    partial = by.outcomes(lacks)
    outcomes = [*by.outcomes(whole), *partial, by.retraction(WHERE, EVENT, 0), by.skip(WHERE, EVENT, "stale")]
    rendered = by.rendered(entry(), 0, outcomes)
    kinds = [(each.kind, each.reason) if isinstance(each, Rendered) else each for each in rendered]
    assert kinds == [("enriched", ""), ("partial", ""), CAPTION_FAILED, ("retraction", ""), ("skip", "stale")]


def test_without_a_topic_a_skip_is_counted_and_sent_nowhere() -> None:
    by, of = renderer(skipped_topic=""), entry()
    assert travelling(of, by.skip(WHERE, EVENT, "stale"), by=by) == []
    [rendered] = of.outcomes[0]
    assert isinstance(rendered, Rendered)
    assert (rendered.kind, rendered.size) == ("skip", 0)


def test_only_an_outcome_that_its_topic_refuses_becomes_a_failure_to_the_byte() -> None:
    gone = renderer().retraction(WHERE, EVENT, 0)
    [message] = travelling(entry(), gone, by=renderer())
    fits, of = renderer(LIMITS | {"out": message.size}), entry()
    assert travelling(of, gone, by=fits) == [message]
    smaller, of = renderer(LIMITS | {"out": message.size - 1}), entry()
    [dead] = travelling(of, gone, by=smaller)
    assert dead.topic == "dead"
    [failure] = of.outcomes[0]
    assert isinstance(failure, Failure)
    assert (failure.index, failure.stage, failure.reason) == (0, "publish", "result-too-large")
    assert (str(message.size) in failure.detail, str(message.size - 1) in failure.detail) == (True, True)


@pytest.mark.parametrize(
    ("on", "one_version", "follows"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_tombstone_follows_the_retraction_of_an_object(on: bool, one_version: bool, follows: bool) -> None:
    by, of = renderer(tombstones=on), entry(input_key=(("key", b"k"),))
    gone = by.retraction(WHERE, replace(EVENT, action="retract", versioned_removal=one_version), 0)
    retraction, *rest = travelling(of, gone, by.skip(WHERE, EVENT, "stale"), by=by)
    assert len(rest) == 1 + follows
    if follows:
        tombstone = rest[0]
        assert (tombstone.topic, tombstone.key, tombstone.value) == (retraction.topic, retraction.key, None)
        assert tombstone.headers == (("tagstream-version", str(AT_EVENT + 1).encode()),)
    [rendered] = of.outcomes[0]
    assert isinstance(rendered, Rendered)
    [alone] = by.rendered(entry(), 0, [gone._replace(tombstone=False)])
    assert isinstance(alone, Rendered)
    assert rendered.size - alone.size == (rest[0].size if follows else 0)


def stored_bytes(document: Outcome) -> int:
    assert isinstance(document, Document)
    return sum(10 + 3 * len(name) + len(value or b"") for name, value in document.stored)


def test_an_image_that_is_too_large_with_its_scores_leaves_without_them() -> None:
    [image] = renderer().outcomes(task())
    [whole] = travelling(entry(), image, by=renderer())
    assert [name for name, _ in whole.headers] == ["tagstream-version", "tagstream-scores"]
    [fits] = travelling(entry(), image, by=renderer(LIMITS | {"out": whole.size}))
    assert fits == whole
    [lighter] = travelling(entry(), image, by=renderer(LIMITS | {"out": whole.size - 1}))
    assert (lighter.value, lighter.headers) == (whole.value, whole.headers[:1])
    [dead] = travelling(entry(), image, by=renderer(LIMITS | {"out": lighter.size - 1}))
    assert dead.topic == "dead"


def test_scores_count_as_bytes_in_progress_and_give_way_to_other_outcomes_of_their_record() -> None:
    by, ledger, of = renderer(), Ledger(), entry()
    [image] = by.outcomes(task())
    ledger.open(of.record.assignment, 0)
    admitted = ledger.admit(of.record, 0.0)
    assert admitted is not None
    ledger.expect(admitted, 1)
    before = ledger.bytes
    rendered = by.rendered(admitted, 0, [image])
    ledger.complete(admitted, 0, rendered)
    [message] = [each.message for each in rendered if isinstance(each, Rendered)]
    assert message is not None
    assert ledger.bytes - before == message.size
    of.outcome_bytes = of.room - message.size + 1
    [lighter] = by.rendered(of, 0, [image])
    assert isinstance(lighter, Rendered)
    assert lighter.size == message.size - stored_bytes(image)
    assert not of.full


def test_a_partial_image_that_is_too_large_reports_its_missing_part_too() -> None:
    lacks = task(failures=(CAPTION_FAILED,))
    by, of = renderer(LIMITS | {"out": 1}), entry()
    of.outcomes[2] = by.rendered(of, 2, by.outcomes(lacks))
    [dead] = by.messages(of)
    reasons = [failure.reason for failure in read_dead_letter_headers(dead.headers).failures]
    assert reasons == ["result-too-large", "caption-failed"]


def test_only_messages_that_no_longer_fit_are_rendered_again() -> None:
    by, of = renderer(limits := dict(LIMITS)), entry()
    of.messages = tuple(travelling(of, by.retraction(WHERE, EVENT, 0), by=by))
    limits["out"] = of.messages[0].size
    assert by.messages_again(of) is None
    limits["out"] -= 1
    assert [each.topic for each in by.messages_again(of) or []] == ["dead"]
    assert by.messages_again(entry()) is None, "a record that has no messages yet"
