"""The log says every 30 seconds what was done and what bounds it, and sums it up at the end."""

from __future__ import annotations

import logging

import pytest

from tests.support.harness import BUCKET, Harness
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from workers import metrics
from workers.errors import Unavailable
from workers.pipeline.activity import ActivityLog, bound_by
from workers.types import Partition


def activity(manual: ManualPipeline) -> ActivityLog:
    pipeline = manual.pipeline
    return ActivityLog(manual.clock, pipeline.tally, pipeline.progress, pipeline.ledger)


def commit(manual: ManualPipeline) -> None:
    """As the publish thread does it, without a broker."""
    ready = manual.pipeline.ledger.ready(1_000, 1_000_000)
    assert ready is not None
    manual.pipeline.ledger.settle(ready)
    manual.pipeline.settle(ready.entries)


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
    manual.events("text.png")
    manual.turn()
    with caplog.at_level(logging.INFO):
        commit(manual)
        pass_time(manual, log, 30)
        manual.events("0.png")
        manual.turn()
        commit(manual)
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
    log = ActivityLog(manual.clock, pipeline.tally, pipeline.progress, pipeline.ledger, lambda: ends)
    manual.put("0.png")
    manual.events("0.png")
    manual.turn()
    with caplog.at_level(logging.INFO):
        commit(manual)
        pass_time(manual, log, 30)
    [line] = said(caplog)
    assert ", 0 records not committed, lag 1,234 offsets in 1 partition; bounded by " in line


def test_without_work_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    manual = ManualPipeline()
    with caplog.at_level(logging.INFO):
        pass_time(manual, activity(manual), 90)
    assert said(caplog) == []


def test_images_that_get_nowhere_are_work_too_and_their_store_is_named(caplog: pytest.LogCaptureFixture) -> None:
    manual = ManualPipeline()
    log = activity(manual)
    manual.put("0.png", "1.png")
    manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
    manual.events("0.png", "1.png")
    manual.turn()
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


def test_each_look_is_counted_by_what_bounds_the_work_and_every_bound_is_shown_from_the_start() -> None:
    with measuring(metrics.BOUND) as measured:
        manual = ManualPipeline()
        log = activity(manual)
        none = dict.fromkeys(("store", "decoder", "model", "cache", "broker", "memory", "input"), 0)
        assert measured.by("by", metrics.BOUND) == none
        pass_time(manual, log, 2)
        manual.put("0.png")
        manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
        manual.events("0.png")
        manual.turn()
        pass_time(manual, log, 3)
        assert measured.by("by", metrics.BOUND) == none | {"input": 2, "store": 3}


def test_a_worker_sums_up_its_run(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    harness.put("sound.png", (255, 0, 0))
    with caplog.at_level(logging.INFO), harness.running():
        harness.send(harness.event("sound.png"))
        harness.send(harness.event("missing.png"))
        harness.settled()
    [line] = [line for line in said(caplog) if line.startswith("in all, in ")]
    assert "(1 enriched, 0 partial), 0 retractions, 0 dead letters, 1 skip (gone 1)" in line
