"""The log: a warning names its record as `topic:partition:offset`, and a line every 30 seconds has the totals."""

import io
import json
import logging
import re
from dataclasses import replace

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext

from tagstream_testing.memory_broker import Fault
from tests.support import logs
from tests.support.harness import BUCKET, POISON, Harness
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.tasks import a_task
from tests.support.waiting import eventually
from workers import metrics
from workers.errors import Unavailable
from workers.pipeline.activity import ActivityLog, bound_by
from workers.pipeline.task import TaskNames
from workers.service.logs import LINES_A_MINUTE, flush_logs, start_logging
from workers.types import Assignment, Coordinates, HasLogFields, Partition


@pytest.fixture
def harness() -> Harness:
    return Harness(partitions=1)


def test_every_warning_of_the_pipeline_names_its_record(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.broker.fail_next(Fault.SEND)
    harness.put("poison.png", POISON)
    harness.put("sound.png", (255, 0, 0))
    harness.store.fail(BUCKET, "sound.png", Unavailable("s3", "away"), times=1)
    with caplog.at_level(logging.WARNING), harness.running():
        harness.send(harness.event("poison.png"))
        harness.send(harness.event("sound.png"))
        harness.settled()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("workers.pipeline")]
    for about in ("the model failed", "the object store failed", "a transaction of"):
        told = [line for line in lines if line.startswith(about)]
        assert told, about
        assert all(re.search(r"\bimages:0:\d+\b", line) for line in told), told


def test_every_dead_letter_has_a_line_with_its_record_and_reasons_and_without_its_key(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.store.put(BUCKET, "secret.png", b"no image at all")
    harness.put("sound.png", (255, 0, 0))
    bad = {"eventName": "s3:ObjectCreated:Put"}
    with caplog.at_level(logging.INFO), harness.running():
        harness.send(harness.event("secret.png"))
        harness.send(harness.event("sound.png"))
        harness.send(b"no message at all")
        harness.send(json.dumps({"Records": [bad, bad]}).encode())
        harness.settled()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("after_commit")]
    assert lines == [
        "images:0:0, index 0: dead letter, not-an-image in decode",
        "images:0:2, index 0: dead letter, undecodable in parse",
        "images:0:3, index 0: dead letter, schema in parse (2)",
    ]
    assert not any("secret" in record.getMessage() for record in caplog.records)


def test_at_debug_level_a_dead_letter_tells_its_key(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), harness.running():
        harness.send(b"no message at all", key=b"photos/secret.png")
        harness.settled()
    told = [record for record in caplog.records if "photos/secret.png" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.DEBUG]


def test_many_dead_letters_are_counted_and_not_logged_one_by_one(harness: Harness) -> None:
    out = io.StringIO()
    with logs.restored():
        start_logging("info", "json", stream=out)
        with harness.running():
            for _ in range(3 * LINES_A_MINUTE):
                harness.send(b"no message at all")
            harness.settled()
        flush_logs()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = [line for line in lines if "tagstream.offset" in line]
    assert 0 < len(told) <= LINES_A_MINUTE
    assert {line["tagstream.topic"] for line in told} == {"images"}
    assert any(str(3 * LINES_A_MINUTE - len(told)) in line["message"] for line in lines)


def test_the_log_has_changes_of_readiness_with_their_reason_and_wrong_credentials(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(logger: str, word: str) -> list[str]:
        lines = [(record.name, record.getMessage()) for record in list(caplog.records)]
        return [line for name, line in lines if name == f"workers.pipeline.{logger}" and word in line]

    monkeypatch.setattr("workers.pipeline.worker._WATCH_S", 0.01)
    harness.put("a.png", (255, 0, 0))
    refused = Unavailable("s3", "HTTP 403", fault="access", advice="correct TAGSTREAM_S3_SECRET_KEY")
    harness.store.fail(BUCKET, None, refused)
    with caplog.at_level(logging.INFO), harness.running() as worker:
        harness.send(harness.event("a.png"))
        eventually(lambda: len(told("worker", "TAGSTREAM_S3_SECRET_KEY")) == 1)
        assert not worker.ready
        harness.store.heal()
        eventually(lambda: len(told("worker", "ready")) == 3)
    assert len(told("flow.bucket_breakers", "TAGSTREAM_S3_SECRET_KEY")) == 1, "once a bucket"


def test_of_a_large_batch_three_records_are_named_and_all_events_are_fields() -> None:
    tasks = [a_task(event={"id": f"id-{number}"}) for number in range(5)]
    for offset, task in enumerate(tasks):
        task.job = replace(task.job, coordinates=Coordinates("images", 0, offset, 0))
    assert str(TaskNames(tasks[:1])) == "images:0:0, index 0"
    assert str(TaskNames(tasks)) == "images:0:0, index 0; images:0:1, index 0; images:0:2, index 0 and 2 more"
    assert TaskNames(tasks[:1]).log_fields(keys=False) == tasks[0].log_fields(keys=False)
    assert TaskNames(tasks).log_fields(keys=False) == {"tagstream.event_ids": [f"id-{number}" for number in range(5)]}


def test_a_line_about_a_task_has_its_record_its_event_and_its_trace_as_fields() -> None:
    task = a_task(event={"id": "41"})
    task.span = NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False))
    record = {"tagstream.topic": "images", "tagstream.partition": 0, "tagstream.offset": 0, "tagstream.index": 0}
    trace = {"trace_id": f"{0xA:032x}", "span_id": f"{0xB:016x}"}
    assert task.log_fields(keys=False) == {**record, "tagstream.event_id": "41", **trace}
    assert task.log_fields(keys=True)["tagstream.subject"] == "photos/a.png"


def test_at_debug_level_every_image_has_a_line_at_its_beginning_and_one_at_its_end(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), harness.running():
        harness.give("sound.png", (255, 0, 0))
        harness.store.put(BUCKET, "odd.png", b"no image")
        harness.send(harness.event("odd.png"))
        harness.settled()
    about = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
    subjects = [each.log_fields(keys=True).get("tagstream.subject") for each in about if isinstance(each, HasLogFields)]
    assert (subjects.count("photos/sound.png"), subjects.count("photos/odd.png")) == (2, 2)
    assert "is done: dead letter, not-an-image in decode" in caplog.text


def activity(manual: ManualPipeline) -> ActivityLog:
    pipeline = manual.pipeline
    return ActivityLog(manual.clock, pipeline.tally, pipeline.progress, pipeline.ledger)


def pass_time(manual: ManualPipeline, log: ActivityLog, seconds: int) -> None:
    for _ in range(seconds):
        manual.clock.advance(1)
        log.step()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "workers.pipeline.activity"]


def test_a_line_tells_rate_outcomes_and_reasons_of_its_own_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    manual = ManualPipeline()
    log = activity(manual)
    manual.put("0.png", "1.png", "2.png")
    manual.events("0.png", "1.png", "2.png", "gone.png")
    manual.store.put(BUCKET, "text.png", b"no image at all")
    manual.handle("text.png")
    with caplog.at_level(logging.INFO):
        manual.commit_all()
        pass_time(manual, log, 30)
        manual.handle("0.png")
        manual.commit_all()
        pass_time(manual, log, 30)
    first, second = said(caplog)
    assert first.startswith(
        "0.1 images/s (3 enriched, 0 partial), 0 retractions, 1 dead letter (not-an-image 1), 1 skip (gone 1); "
        "0 images in flight, 0 records not committed; bounded by the input (30 of 30 looks)"
    )
    assert second.startswith("0.0 images/s (1 enriched, 0 partial), 0 retractions, 0 dead letters, 0 skips;")


def test_a_line_tells_how_far_committed_offsets_are_behind_known_ends(caplog: pytest.LogCaptureFixture) -> None:
    manual = ManualPipeline()
    pipeline = manual.pipeline
    [(partition, committed)] = pipeline.ledger.committed().items()
    ends = {partition: committed + 1_235, Partition("another member's", 0): 9_000}
    ends[old := Partition("old", 0)] = 5_000
    pipeline.ledger.open(Assignment(old, "m"), 0)
    log = ActivityLog(manual.clock, pipeline.tally, pipeline.progress, pipeline.ledger, lambda: ends, ["old"])
    manual.put("0.png")
    manual.handle("0.png")
    with caplog.at_level(logging.INFO):
        manual.commit_all()
        pass_time(manual, log, 30)
    [line] = said(caplog)
    assert ", 0 records not committed, lag 6,234 offsets in 2 partitions (5,000 in the background); bounded by " in line


def test_without_work_nothing_is_logged(manual: ManualPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        pass_time(manual, activity(manual), 90)
    assert said(caplog) == []


def test_images_that_get_nowhere_are_work_too_and_their_store_is_named(caplog: pytest.LogCaptureFixture) -> None:
    manual = ManualPipeline()
    log = activity(manual)
    manual.put("0.png", "1.png")
    manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
    manual.handle("0.png", "1.png")
    with caplog.at_level(logging.INFO):
        pass_time(manual, log, 30)
    [line] = said(caplog)
    assert "2 images in flight (wait-store 2), 2 records not committed; bounded by the store" in line


@pytest.mark.parametrize(
    ("places", "bound"),
    [
        ({"wait-fetch": 90, "fetch": 16, "decode": 2, "annotate": 1}, "the store"),
        ({"wait-fetch": 90, "fetch": 2, "wait-inspect": 40, "decode": 30, "annotate": 8}, "the decoder"),
        ({"wait-fetch": 90, "wait-decode": 80, "decode": 4, "wait-device": 40, "annotate": 32}, "the model"),
        ({"lookup": 50, "fetch": 2}, "the cache"),
        ({"wait-fetch": 3}, "memory"),
        ({}, "the broker"),
    ],
)
def test_what_waits_for_memory_is_not_what_bounds_the_work(places: dict[str, int], bound: str) -> None:
    assert bound_by(places, records=200) == bound


def test_each_look_counts_one_bottleneck_and_all_bottlenecks_are_shown_from_the_start() -> None:
    with measuring(metrics.BOUND) as measured:
        manual = ManualPipeline()
        log = activity(manual)
        none = dict.fromkeys(("store", "decoder", "model", "cache", "captioner", "broker", "memory", "input"), 0)
        assert measured.by("by", metrics.BOUND) == none
        pass_time(manual, log, 2)
        manual.put("0.png")
        manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
        manual.handle("0.png")
        pass_time(manual, log, 3)
        assert measured.by("by", metrics.BOUND) == none | {"input": 2, "store": 3}


def test_a_worker_sums_up_its_run(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), harness.running():
        harness.give("sound.png", (255, 0, 0))
        harness.send(harness.event("missing.png"))
        harness.settled()
    [line] = [line for line in said(caplog) if line.startswith("in all, in ")]
    assert "(1 enriched, 0 partial), 0 retractions, 0 dead letters, 1 skip (gone 1)" in line
