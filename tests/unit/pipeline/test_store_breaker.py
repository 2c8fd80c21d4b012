"""All images leave a failing object store alone, and continue when it is back."""

import threading
import time
from typing import Any

import pytest

from schemas.dead_letter import Failure
from tests.support.harness import BUCKET, Harness
from tests.support.inline_intake import HeldIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.waiting import eventually
from workers import metrics
from workers.breaker import OPENS_AFTER
from workers.errors import Gone, Superseded, TagstreamError, Unavailable
from workers.pipeline.flow.bucket_breakers import HOLDS_BACK

AWAY = Unavailable("s3", "no connection")


def reasons(manual: ManualPipeline) -> list[str]:
    return [o.reason for outcomes in manual.done.values() for o in outcomes if isinstance(o, Failure)]


def keys(count: int, name: str = "key") -> list[str]:
    return [f"{name}-{number}.png" for number in range(count)]


def in_an_outage(images: int = 50, **options: Any) -> ManualPipeline:
    manual = ManualPipeline(**options)
    manual.put(*keys(images))
    manual.store.fail(BUCKET, None, AWAY)
    manual.handle(*keys(images))
    return manual


def test_when_different_objects_fail_in_a_row_no_other_is_asked_for() -> None:
    """Guard: may_ask. Without it each of the fifty would be requested, again and again."""
    manual = in_an_outage()
    assert len(set(manual.reads)) == OPENS_AFTER
    assert manual.in_flight == {"wait-store": 50}
    assert manual.pipeline.fetch.encoded.used == manual.pipeline.fetch.slots.used == 0, (
        "a task that waits holds nothing"
    )


def test_a_repeated_request_counts_as_a_retry_and_a_wait_does_not() -> None:
    with measuring(metrics.RETRIES) as measured:
        manual = in_an_outage(images=5)
        manual.store.heal()
        manual.turns(30)
        assert len(manual.done) == 5
        assert measured.by("dependency", metrics.RETRIES) == {"s3": OPENS_AFTER}


def test_during_an_outage_one_probe_at_a_time_asks_and_ever_more_rarely() -> None:
    manual = in_an_outage()
    manual.turns(600, every_s=0.5)
    asked = len(manual.reads) - OPENS_AFTER
    assert 600 / 5 <= asked <= 600 / 2.5 + 10
    assert manual.in_flight == {"wait-store": 50}
    assert manual.done == {}


def test_after_an_outage_of_ten_minutes_all_flow_again_within_seconds() -> None:
    """Guard: the release of all images at once; their own pauses would delay the last by minutes."""
    manual = in_an_outage(images=5, retry_max_s=300.0)
    manual.turns(600, every_s=0.5)
    manual.store.heal()
    healed = manual.clock.monotonic()
    while len(manual.done) < 5 and manual.clock.monotonic() - healed < 60:
        manual.turns(0.1)
    assert len(manual.done) == 5
    assert manual.clock.monotonic() - healed <= 5.5
    assert reasons(manual) == []


def test_an_outage_blames_no_object() -> None:
    """Guard: the time between two tries counts as long as a pause may be. Else an image that fails once more after an
    outage would be dead-lettered."""
    manual = in_an_outage(unreadable_s=60.0)
    manual.turns(600, every_s=0.5)
    manual.store.heal()
    manual.store.fail(BUCKET, "key-7.png", Unavailable("s3", "HTTP 500"), times=4)
    manual.turns(45)
    assert reasons(manual) == []
    assert len(manual.done) == 50


def test_new_images_wait_for_an_open_breaker_and_a_partition_with_many_waiting_ones_takes_no_more() -> None:
    manual = ManualPipeline(partitions=2)
    manual.store.fail(BUCKET, None, AWAY)
    manual.handle(*keys(HOLDS_BACK - 1))
    assert not manual.pipeline.fetch.holds_back(manual.assignments[0]), "one of the next may be answered"
    asked = len(manual.reads)
    manual.handle("other.png")
    assert len(manual.reads) == asked
    assert manual.pipeline.fetch.holds_back(manual.assignments[0])
    assert not manual.pipeline.fetch.holds_back(manual.assignments[1])


def test_the_buckets_of_a_store_are_judged_one_by_one() -> None:
    manual = in_an_outage(images=5)
    manual.store.put("drawings", "a.png", b"not an image")
    manual.handle("a.png", bucket="drawings")
    assert reasons(manual) == ["not-an-image"]


def test_one_object_that_always_fails_is_dead_lettered_and_keeps_no_other_from_asking() -> None:
    manual = ManualPipeline(unreadable_s=60.0)
    manual.put("bad.png", *keys(20))
    manual.store.fail(BUCKET, "bad.png", Unavailable("s3", "HTTP 500"))
    manual.events("bad.png")
    for key in keys(20):
        manual.turns(40, every_s=0.5)
        assert manual.pipeline.fetch.bucket_breakers.may_ask(BUCKET)
        manual.handle(key)
        manual.clock.advance(0.1)
    assert reasons(manual) == ["unreadable"]


def test_an_object_that_is_refused_twice_while_others_were_given_is_forbidden(manual: ManualPipeline) -> None:
    manual.put("good.png", "bad.png")
    manual.store.fail(BUCKET, "bad.png", Unavailable("s3", "HTTP 403", fault="forbidden"))
    manual.events("bad.png")
    manual.turns(60)
    assert reasons(manual) == [], "it may be everything that is refused"
    manual.handle("good.png")
    assert reasons(manual) == []
    manual.turns(10)
    assert reasons(manual) == ["forbidden"]


@pytest.mark.parametrize(
    "answer",
    [
        Gone("no such object"),
        Superseded("another etag"),
        Unavailable("s3", "HTTP 403 InvalidObjectState", fault="object"),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_whatever_a_store_answers_about_an_object_ends_its_outage(answer: TagstreamError) -> None:
    manual = in_an_outage(images=4)
    breakers = manual.pipeline.fetch.bucket_breakers
    assert not breakers.may_ask(BUCKET)
    manual.store.heal()
    manual.store.fail(BUCKET, None, answer, times=1)
    asked = len(manual.reads)
    while len(manual.reads) == asked:
        manual.clock.advance(0.1)
        manual.pipeline.fetch.poll()
    assert breakers.may_ask(BUCKET)


def test_a_probe_of_a_revoked_partition_makes_room_for_another_at_once() -> None:
    """Guard: the turn that it holds; else all wait for an answer to a question that was never put."""
    manual = ManualPipeline(partitions=2)
    manual.put(*keys(4))
    manual.store.fail(BUCKET, None, AWAY)
    manual.handle(*keys(3), partition=0)
    manual.handle("key-3.png", partition=1)
    assert manual.in_flight == {"wait-store": 4}
    manual.store.heal()
    manual.assignments[1].end()  # the next attempt of the only untried object, which therefore asks first
    manual.turns(3)
    assert sorted(manual.done) == [(0, 0, 0), (0, 1, 0), (0, 2, 0)]


def test_a_probe_of_a_revoked_partition_takes_nothing_along() -> None:
    manual = ManualPipeline(partitions=2)
    manual.put(*keys(6))
    manual.store.fail(BUCKET, None, AWAY)
    manual.handle(*keys(3), partition=0)
    manual.handle("key-3.png", "key-4.png", partition=1)
    manual.assignments[0].end()
    manual.pipeline.ledger.close_ended()
    manual.pipeline.fetch.drop_ended()
    assert manual.in_flight == {"wait-store": 2}
    manual.store.heal()
    manual.turns(1)
    assert sorted(manual.done) == [(1, 0, 0), (1, 1, 0)]


def test_an_object_that_fails_twice_within_seconds_while_others_are_read_is_tried_on() -> None:
    manual = ManualPipeline(unreadable_s=60.0)
    manual.put("odd", *keys(30))
    manual.store.fail(BUCKET, "odd", AWAY, times=3)
    manual.events("odd")
    for key in keys(30):
        manual.events(key)
        manual.turns(1)
    assert reasons(manual) == []
    assert len(manual.done) == 31


@pytest.mark.parametrize(
    "answer",
    [
        Unavailable("s3", "HTTP 403 AccessDenied", fault="forbidden"),
        Unavailable("s3", "HTTP 400 InvalidRequest", fault="refused"),
    ],
    ids=lambda answer: answer.fault,
)
def test_who_refuses_is_up(answer: Unavailable) -> None:
    """It opens no breaker, and closes one that is open; what waits for its next try holds nothing."""
    manual = in_an_outage(images=4)
    manual.store.heal()
    manual.store.fail(BUCKET, None, answer)
    manual.turns(1)
    assert manual.pipeline.fetch.bucket_breakers.may_ask(BUCKET)
    manual.handle(*keys(50))
    assert manual.pipeline.fetch.bucket_breakers.may_ask(BUCKET)
    assert manual.in_flight == {"wait-store": 54}
    assert manual.pipeline.fetch.encoded.used == manual.pipeline.fetch.slots.used == 0


@pytest.mark.parametrize(("age_s", "asked"), [(0.0, 3), (9.0, 3), (11.0, 1), (1e9, 1), (-60.0, 3)])
def test_an_absent_object_is_asked_for_three_times_while_its_event_is_young_and_holds_no_slot_meanwhile(
    manual: ManualPipeline, age_s: float, asked: int
) -> None:
    manual.handle("absent.png", timestamp_ms=int((manual.clock.wall() - age_s) * 1000))
    assert manual.pipeline.fetch.encoded.used == manual.pipeline.fetch.slots.used == 0
    manual.turns(1)
    assert manual.reads == ["absent.png"] * asked
    assert len(manual.done) == 1


def test_an_object_that_a_store_shows_late_is_read(manual: ManualPipeline) -> None:
    manual.handle("late.png", timestamp_ms=int(manual.clock.wall() * 1000))
    manual.put("late.png")
    manual.turns(1)
    assert manual.reads == ["late.png"] * 2
    assert reasons(manual) == []


def test_an_intake_starts_only_the_gets_that_it_can_make_at_once_so_that_few_fail() -> None:
    """Guard: the slots. Images that wait within the intake would be requested although the breaker is open."""
    manual = ManualPipeline(make_intake=HeldIntake, fetch_threads=8)
    manual.handle(*keys(50))
    asked = manual.intake.asked
    assert len(asked) == 8
    for *_, future in list(asked):
        future.set_exception(AWAY)
    assert len(asked) == 8 + OPENS_AFTER - 1, "one more for each that failed before it opened"
    for *_, future in asked[8:]:
        future.set_exception(AWAY)
    assert manual.in_flight == {"wait-store": 50}


@pytest.mark.slow
def test_a_worker_asks_a_failing_store_rarely_and_continues_at_once_when_it_is_back(harness: Harness) -> None:
    for number, key in enumerate(keys(60)):
        harness.put(key, (number, 0, 200))
    harness.store.fail(BUCKET, None, AWAY)
    with harness.running(retry_min_s=0.2, retry_max_s=1.0) as worker:
        for number, key in enumerate(keys(60)):
            harness.send(harness.event(key), partition=number % 2)
        eventually(lambda: worker.progress().in_flight.get("wait-store", 0) == 60)
        asked = len(harness.store.reads)
        began = time.monotonic()
        threading.Event().wait(1.0)
        assert len(harness.store.reads) - asked <= 5 * (time.monotonic() - began)
        assert worker.progress().ok
        harness.store.heal()
        harness.settled()
    assert harness.dead() == []
    assert len(harness.enriched()) == 60
