"""Gauges are read when they are scraped, and say what is so then."""

from __future__ import annotations

from functools import partial

import pytest
from opentelemetry.metrics import CallbackOptions

from tagstream_testing.memory import ManualClock
from tests.support.harness import BUCKET, Harness
from tests.support.waiting import eventually
from workers import metrics
from workers.backends.probing_breaker import ProbingBreaker
from workers.errors import Unavailable
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.gauges import age_of
from workers.pipeline.held_up import HeldUp
from workers.types import Assignment, Partition, Record

Shown = dict[tuple[str, ...], float]


def look(gauge: metrics.ObservedGauge) -> Shown:
    """What a scrape would show, by the labels' values."""
    seen = gauge._observe(CallbackOptions())
    return {tuple(str(v) for v in (o.attributes or {}).values()): o.value for o in seen}


@pytest.fixture
def harness() -> Harness:
    harness = Harness()
    for number in range(20):
        harness.put(f"{number}.png", (number, 0, 200))
    return harness


def test_a_worker_shows_where_its_images_and_partitions_are_and_nothing_after_its_end(harness: Harness) -> None:
    harness.tagger.gate.clear()
    with harness.running(polled_bytes=5_000, jobs_ahead=3):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=0)
        harness.tagger.waiting.wait(10)
        eventually(lambda: look(metrics.LEDGER_RECORDS) == {(): 3})
        assert sum(look(metrics.IN_FLIGHT).values()) == 3
        assert look(metrics.READY) == {(): True}
        assert look(metrics.BUDGET_LIMIT_BYTES) == {("encoded",): 256 << 20, ("decoded",): 512 << 20}
        assert look(metrics.BUDGET_BYTES)["decoded",] > 0
        assert look(metrics.BUDGET_PEAK_BYTES)["encoded",] > 0
        eventually(lambda: look(metrics.PARTITIONS) == {("reading",): 1, ("paused",): 1, ("opening",): 0})
        harness.tagger.gate.set()
        harness.settled()
        eventually(lambda: look(metrics.LEDGER_RECORDS) == {(): 0})
    for gauge in (metrics.IN_FLIGHT, metrics.PARTITIONS, metrics.LEDGER_RECORDS, metrics.READY, metrics.BUDGET_BYTES):
        assert look(gauge) == {}


def test_a_worker_tells_which_partition_an_open_transaction_holds_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.pipeline.worker.HeldUp", partial(HeldUp, after_s=0.2))
    caplog.set_level("INFO", "workers.pipeline.held_up")
    abort = harness.broker.append_open("images", 0, b"k", b"open")
    harness.send(harness.event("1.png"), partition=0)
    harness.send(harness.event("0.png"), partition=1)
    with harness.running() as worker:
        eventually(lambda: look(metrics.HELD_UP_SECONDS).get(("images", "0"), 0) > 0.2)
        assert look(metrics.HELD_UP_SECONDS)["images", "1"] == 0
        eventually(lambda: [line.split()[0] for line in worker.notices()] == ["images:0"])
        assert worker.unready() is None
        assert look(metrics.LAG_RECORDS)["images", "0"] == 2
        eventually(lambda: "images:0 is held up" in caplog.text)
        abort()
        eventually(lambda: "images:0 is held up no longer" in caplog.text)
        assert not worker.notices()
        assert caplog.text.count("images:0 is held up by") == 1
        eventually(lambda: look(metrics.LAG_RECORDS) == {("images", "0"): 0, ("images", "1"): 0})
        assert look(metrics.HELD_UP_SECONDS) == {("images", "0"): 0, ("images", "1"): 0}


def test_a_worker_shows_how_far_each_of_its_partitions_is_behind(harness: Harness) -> None:
    harness.tagger.gate.clear()
    with harness.running(jobs_ahead=3):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=0)
        harness.tagger.waiting.wait(10)
        eventually(lambda: look(metrics.LAG_RECORDS) == {("images", "0"): 20, ("images", "1"): 0})
        eventually(lambda: look(metrics.LAG_SECONDS)["images", "0"] > 0.02)
        assert look(metrics.LAG_SECONDS)["images", "0"] < 60
        assert look(metrics.LAG_SECONDS)["images", "1"] == 0
        assert look(metrics.COMMITTED_OFFSET) == {("images", "0"): 0, ("images", "1"): 0}
        harness.tagger.gate.set()
        harness.settled()
        eventually(lambda: look(metrics.COMMITTED_OFFSET) == {("images", "0"): 20, ("images", "1"): 0})
        assert look(metrics.LAG_RECORDS) == look(metrics.LAG_SECONDS) == {("images", "0"): 0, ("images", "1"): 0}
    for gauge in (metrics.LAG_RECORDS, metrics.LAG_SECONDS, metrics.COMMITTED_OFFSET):
        assert look(gauge) == {}


@pytest.mark.parametrize(
    ("made_at_s", "appended", "age_s"),
    [(940.0, True, 60.0), (1000.0, True, 0.0), (1060.0, True, 5.0), (940.0, False, 5.0), (0.001, False, 5.0)],
    ids=["an older one", "a new one", "one that is still to come", "a producer's time", "a false time"],
)
def test_the_age_of_a_record_is_by_the_brokers_time_or_our_own(made_at_s: float, appended: bool, age_s: float) -> None:
    clock = ManualClock(wall=995.0)
    taken_at = clock.monotonic()
    clock.advance(5.0)
    partition = Partition("images", 0)
    made_at_ms = int(made_at_s * 1000)
    record = Record(partition, 7, made_at_ms, None, b"", (), Assignment(partition, "m"), append_time=appended)
    assert age_of(Entry(record, taken_at), clock) == pytest.approx(age_s)
    assert age_of(None, clock) == 0


def test_the_breakers_of_the_object_store_are_counted_by_state(harness: Harness) -> None:
    harness.store.fail(BUCKET, None, Unavailable("s3", "away"))
    with harness.running(retry_max_s=0.2):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=number % 2)

        def states() -> tuple[float, ...]:
            shown = look(metrics.BREAKERS)
            return tuple(shown["s3", state] for state in ("closed", "open", "half-open"))

        eventually(lambda: bool(look(metrics.BREAKERS)) and states()[0] == 0 and sum(states()) == 1)
        harness.store.heal()
        harness.settled()
        assert states() == (1, 0, 0)


def test_the_breaker_of_the_cache_is_shown_beside_them() -> None:
    breaker = ProbingBreaker("x", lambda: False, first_pause_s=0.01)
    try:
        assert look(metrics.BREAKERS) == {("redis", "closed"): 1, ("redis", "open"): 0, ("redis", "half-open"): 0}
        breaker.failure("why")
        assert look(metrics.BREAKERS)["redis", "closed"] == 0
    finally:
        breaker.close()
    assert look(metrics.BREAKERS) == {}
