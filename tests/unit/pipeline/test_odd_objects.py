"""Odd answers about an object cost this object alone, and an outage costs no object: for every S3 error."""

import math
import random
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, Skip
from tests.support.harness import BUCKET
from tests.support.inline_intake import HeldIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import read
from workers.backends.s3.client import MEANINGS, S3Answer, meaning
from workers.breaker import OPENS_AFTER
from workers.errors import Fault, Gone, Superseded, TagstreamError, Unavailable
from workers.pipeline.flow.bucket_breakers import REFUSES_ALL, TELL_AFTER_S
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.fetch import REFUSALS
from workers.types import Outcome

UNREADABLE_S = 60.0
ANSWERS = [
    *(S3Answer(status) for status in (103, 201, 204, 206, *range(300, 309), *range(400, 432), 451, *range(500, 512))),
    *(S3Answer(400, code) for code in sorted(MEANINGS)),
    *(
        S3Answer(status, code)
        for status, code in (
            (400, "InvalidArgument"),
            (400, "InvalidRequest"),
            (400, "KMS.DisabledException"),
            (416, "InvalidRange"),
            (501, "NotImplemented"),
            (400, "NeverHeardOfIt"),
        )
    ),
]
OUTAGES: list[Fault] = [fault for fault in get_args(Fault) if fault != "object"]
ODD: list[Fault] = [fault for fault in get_args(Fault) if fault != "access"]
"""Answers of a store about one object, without wrong credentials: the client then asks about another name."""
LONGEST_PAUSE_S = 10.0


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    """Who asks a store that fails is drawn; once in some hundred draws it is an odd object for seconds."""
    random.seed(0)


def error_of(answer: S3Answer) -> TagstreamError:
    found = meaning(answer)
    if found == "gone":
        return Gone("no such object")
    if found == "superseded":
        return Superseded("another")
    return Unavailable("s3", answer.said, fault="refused" if found == "access" else found)


def failing(fault: Fault) -> Unavailable:
    return Unavailable("s3", fault, fault=fault, advice="correct TAGSTREAM_S3_SECRET_KEY")


def keys(count: int, name: str) -> list[str]:
    return [f"{name}-{number}.png" for number in range(count)]


def prepared(good: Sequence[str], odd: Sequence[str], errors: Sequence[TagstreamError]) -> ManualPipeline:
    manual = ManualPipeline(partitions=2, unreadable_s=UNREADABLE_S)
    manual.put(*good, *odd)
    for key, error in zip(odd, errors, strict=True):
        manual.store.fail(BUCKET, key, error)
    return manual


def busy(manual: ManualPipeline, seconds: float) -> None:
    """Let this time pass while other objects of the bucket are read, two a second, in partition 1."""
    for _ in range(round(seconds / 0.5)):
        key = f"other-{manual.clock.monotonic()}.png"
        manual.put(key)
        manual.events(key, partition=1)
        manual.turns(0.5, every_s=0.25)


def answered_s(manual: ManualPipeline, count: int, limit_s: float = 10 * UNREADABLE_S) -> float:
    """Seconds until this many events of partition 0 have their outcomes, while others are read."""
    began = manual.clock.monotonic()
    while len(outcomes(manual)) < count and manual.clock.monotonic() - began < limit_s:
        busy(manual, 0.5)
    return manual.clock.monotonic() - began


def outcomes(manual: ManualPipeline) -> list[tuple[Outcome, ...]]:
    return [found for (partition, _, _), found in manual.done.items() if partition == 0]


def number_enriched(manual: ManualPipeline) -> int:
    return sum(isinstance(read(found[0]), EnrichedImage) for found in outcomes(manual))


def dead(manual: ManualPipeline) -> list[Failure]:
    return [o for outcomes in manual.done.values() for o in outcomes if isinstance(o, Failure)]


@pytest.mark.parametrize("fault", ODD)
@pytest.mark.parametrize("odd", [1, 6])
def test_good_events_behind_odd_ones_are_answered_in_time(fault: Fault, odd: int) -> None:
    good, bad = keys(20, "good"), keys(odd, "odd")
    manual = prepared(good, bad, [failing(fault)] * odd)
    manual.events(*bad, *good)
    manual.turns(2.0)
    assert number_enriched(manual) == 20, "the good ones are read at once"
    assert answered_s(manual, 20 + odd) + 2.0 <= UNREADABLE_S + 1.0
    assert len(dead(manual)) == odd
    assert manual.pipeline.fetch.bucket_breakers.may_ask(BUCKET)
    assert manual.pipeline.fetch.unready() == []


@pytest.mark.slow
def test_every_answer_that_s3_defines_costs_its_own_object_alone_and_no_more_than_its_time() -> None:
    """All at once, each about an object of its own, and as many good ones between them."""
    good, bad = keys(len(ANSWERS), "good"), keys(len(ANSWERS), "odd")
    manual = prepared(good, bad, [error_of(answer) for answer in ANSWERS])
    manual.events(*(key for pair in zip(bad, good, strict=True) for key in pair))
    manual.turns(2.0)
    assert number_enriched(manual) == len(good), "the good ones are read at once"
    assert answered_s(manual, len(good) + len(bad)) + 2.0 <= UNREADABLE_S + 5.0
    for number, answer in enumerate(ANSWERS):
        outcome = read(*manual.done[0, 2 * number, 0])
        if meaning(answer) in ("gone", "superseded"):
            assert isinstance(outcome, Skip)
        else:
            assert isinstance(outcome, Failure)
            assert answer.said in outcome.detail


@pytest.mark.parametrize("fault", [fault for fault in ODD if fault != "object"])
def test_good_events_that_come_after_odd_ones_are_answered_in_time(fault: Fault) -> None:
    """Nothing was ever read when the odd ones come, and their breaker opens. Guard: any untried object may probe it."""
    good, bad = keys(20, "good"), keys(6, "odd")
    manual = prepared(good, bad, [failing(fault)] * 6)
    manual.events(*bad)
    manual.turns(300, every_s=0.5)
    assert dead(manual) == []
    manual.events(*good)
    assert answered_s(manual, 26) <= UNREADABLE_S + 10.0
    assert number_enriched(manual) == 20


@pytest.mark.slow
def test_odd_objects_that_keep_coming_do_not_excuse_each_other() -> None:
    """Guard: an outage is one that a probe met, and an object that fails while others are read feeds no breaker."""
    good, bad = keys(40, "good"), keys(200, "odd")
    manual = prepared(good, bad, [failing("service")] * 200)
    manual.events(good[0])
    for number in range(40):
        manual.events(*bad[5 * number : 5 * number + 5])
        busy(manual, 3.0)
    assert len(dead(manual)) >= 5 * (40 - 22), "those of a minute ago are done with"
    manual.events(*good[1:])
    manual.turns(6.0, every_s=0.5)
    assert number_enriched(manual) == 40


@pytest.mark.slow
@pytest.mark.parametrize("fault", OUTAGES)
@pytest.mark.parametrize("in_hand", [1, OPENS_AFTER - 1, 20])
def test_an_outage_of_any_kind_dead_letters_no_object(fault: Fault, in_hand: int) -> None:
    """A single object that fails after others were read looks like an odd one in a quiet hour."""
    good = keys(5 + in_hand, "good")
    manual = prepared(good, [], [])
    manual.handle(*good[:5])
    manual.clock.advance(0.01)
    manual.store.fail(BUCKET, None, failing(fault))
    manual.events(*good[5:])
    manual.turns(600, every_s=0.5)
    assert dead(manual) == []
    manual.store.heal()
    manual.turns(15, every_s=0.5)
    assert number_enriched(manual) == len(good)


def test_a_read_that_began_before_the_outage_does_not_count_as_a_comparison() -> None:
    """Guard: a read counts from its request. The first refusal came before a slow answer to an earlier request."""
    manual = ManualPipeline(make_intake=HeldIntake)
    manual.put("slow.png")
    manual.handle("slow.png", "good.png")
    asked = manual.intake.asked
    asked[1][-1].set_exception(failing("forbidden"))
    manual.clock.advance(0.01)
    manual.intake.succeed(0)
    manual.turns(1.0)
    assert [job.event.key for job, *_ in asked[2:]] == ["good.png"]
    asked[2][-1].set_exception(failing("forbidden"))
    manual.turn()
    assert dead(manual) == []


@pytest.mark.slow
def test_an_object_that_takes_all_its_time_at_every_try_is_answered_in_time() -> None:
    """Guard: the time of the next answer counts, and a GET's clock is below half of the time: two tries fit."""
    manual = ManualPipeline(partitions=2, make_intake=HeldIntake, unreadable_s=UNREADABLE_S)
    manual.put("good.png")
    intake, began = manual.intake, manual.clock.monotonic()
    manual.handle("drips.png")
    drips, seen = (0, began), 1
    while not dead(manual) and manual.clock.monotonic() - began < 3 * UNREADABLE_S:
        manual.clock.advance(0.1)
        manual.handle("good.png", partition=1)
        now = manual.clock.monotonic()
        for number in range(seen, len(intake.asked)):
            if intake.asked[number][0].event.key == "good.png":
                intake.succeed(number)
            else:
                drips = number, now
        seen = len(intake.asked)
        if now - drips[1] >= WorkerOptions(output_topic="o", dead_letter_topic="d").get_timeout_s:
            intake.asked[drips[0]][-1].set_exception(failing("too-slow"))
            drips = drips[0], math.inf
    assert [failure.reason for failure in dead(manual)] == ["fetch-too-slow"]
    assert manual.clock.monotonic() - began < UNREADABLE_S


@given(
    faults=st.lists(st.sampled_from(ODD), max_size=8),
    good=st.integers(1, 12),
    outages=st.lists(st.tuples(st.floats(0.1, 40), st.floats(0.1, 200), st.sampled_from(OUTAGES)), max_size=3),
    seed=st.randoms(use_true_random=False),
)
@settings(max_examples=settings().max_examples // 5)
@pytest.mark.slow
def test_whatever_comes_together_only_the_odd_ones_are_dead_lettered(
    faults: list[Fault], good: int, outages: list[tuple[float, float, Fault]], seed: object
) -> None:
    """Some events come during each outage. An object refused in two outages needs a read of another between them."""
    fine, bad = keys(good, "good"), keys(len(faults), "odd")
    manual = prepared(fine, bad, [failing(fault) for fault in faults])
    events = [*fine, *bad]
    seed.shuffle(events)  # type: ignore[attr-defined]
    parts = [events[number :: len(outages) + 2] for number in range(len(outages) + 2)]
    manual.events(*parts[0])
    manual.turns(1.0, every_s=0.5)
    for part, (after, lasts, fault) in zip(parts[2:], outages, strict=True):
        busy(manual, LONGEST_PAUSE_S + after if fault in REFUSALS else after)
        manual.store.fail(BUCKET, None, failing(fault))
        manual.events(*part)
        manual.turns(lasts, every_s=0.5)
        manual.store.heal()
        for key, own in zip(bad, faults, strict=True):
            manual.store.fail(BUCKET, key, failing(own))
    manual.events(*parts[1])
    answered_s(manual, len(events), 3 * UNREADABLE_S)
    assert number_enriched(manual) == good
    assert len(dead(manual)) == len(faults)


def test_credentials_that_are_refused_make_the_worker_unready_at_once_until_they_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manual = prepared(keys(20, "good"), [], [])
    manual.store.fail(BUCKET, None, failing("access"))
    manual.handle(*keys(20, "good"))
    assert manual.pipeline.fetch.unready() == ["correct TAGSTREAM_S3_SECRET_KEY"]
    assert len(manual.reads) == 1, "no other is requested"
    manual.turns(60.0)
    told = [record.getMessage() for record in caplog.records if "TAGSTREAM_S3_SECRET_KEY" in record.getMessage()]
    assert len(told) == 1, "once a bucket"
    assert manual.pipeline.fetch.notices() == [], "it is said already"
    manual.store.heal()
    manual.turns(15.0)
    assert manual.pipeline.fetch.unready() == []
    assert number_enriched(manual) == 20


@pytest.mark.parametrize("fault", ["forbidden", "refused"])
def test_a_bucket_that_refuses_all_objects_is_reported_and_makes_no_dead_letter(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy can forbid all objects, or any producer name forbidden ones, so the worker stays ready."""
    bad = keys(REFUSES_ALL, "odd")
    manual = prepared(["one.png", "two.png"], bad, [failing(fault)] * REFUSES_ALL)
    manual.events(*bad[:-1])
    manual.turns(60.0)
    assert manual.pipeline.fetch.notices() == []
    manual.events(bad[-1])
    manual.turns(60.0)
    [notice] = manual.pipeline.fetch.notices()
    assert BUCKET in notice
    assert manual.pipeline.fetch.unready() == []
    assert sum("TAGSTREAM_S3_SECRET_KEY" in record.getMessage() for record in caplog.records) == 1, "the advice"
    assert dead(manual) == []
    manual.handle("one.png", partition=1)
    assert manual.pipeline.fetch.notices() == []
    manual.turns(1.0)
    assert len(dead(manual)) == REFUSES_ALL, "those that are refused again after another was given"


@pytest.mark.slow
def test_refusals_in_a_row_blame_no_object_even_if_another_was_read_after_the_first_refusal() -> None:
    """Guard: `refuses_all`. A policy that was changed after this object's own first refusal, and after another read."""
    good = keys(REFUSES_ALL + 2, "good")
    manual = prepared(good, [], [])
    manual.store.fail(BUCKET, good[0], failing("forbidden"), times=1)
    manual.handle(good[0])
    manual.clock.advance(0.01)
    manual.handle(good[1], partition=1)
    manual.store.fail(BUCKET, None, failing("forbidden"))
    manual.events(*good[2:])
    manual.turns(600.0)
    assert dead(manual) == []
    manual.store.heal()
    manual.turns(11.0)
    assert number_enriched(manual) == len(good) - 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["forbidden", "refused", "service", "too-slow"])
def test_a_thousand_odd_objects_of_one_partition_keep_no_other_from_being_answered(fault: Fault) -> None:
    """A worker that never read this bucket. Guards: a refusal opens no breaker; the probe of one that is open is drawn
    by partition first."""
    bad = keys(1000, "odd")
    manual = ManualPipeline(partitions=4, unreadable_s=UNREADABLE_S)
    for key in bad:
        manual.store.fail(BUCKET, key, failing(fault))
    manual.put(*keys(3, "good"))
    manual.handle(*bad)
    for partition, key in enumerate(keys(3, "good"), start=1):
        manual.events(key, partition=partition)
    manual.turns(5.0)
    assert all((partition, 0, 0) in manual.done for partition in (1, 2, 3))


@pytest.mark.slow
def test_refused_objects_are_asked_for_ever_more_rarely_and_the_more_there_are_the_more_rarely() -> None:
    bad = keys(1000, "odd")
    manual = ManualPipeline()
    for key in bad:
        manual.store.fail(BUCKET, key, failing("forbidden"))
    manual.events(*bad)
    manual.turns(20.0, every_s=1.0)
    asked = len(manual.reads)
    manual.turns(20.0, every_s=1.0)
    assert len(manual.reads) - asked <= 20 * 200
    assert dead(manual) == []


@pytest.mark.slow
def test_an_object_is_blamed_only_by_the_time_while_others_were_read() -> None:
    """Guard: the counted time. One event of another object each half a minute; an earlier quiet hour proves nothing."""
    manual = prepared(["one.png"], ["odd.png"], [failing("service")])
    manual.events("odd.png")
    manual.turns(3600.0, every_s=1.0)
    assert dead(manual) == []
    busy(manual, UNREADABLE_S / 2)
    assert dead(manual) == []
    manual.turns(600.0, every_s=1.0)
    assert dead(manual) == []
    busy(manual, UNREADABLE_S)
    assert [failure.reason for failure in dead(manual)] == ["unreadable"]


def test_a_bucket_that_fails_for_long_has_a_notice_that_names_it_and_its_last_answer() -> None:
    manual = prepared(keys(5, "good"), [], [])
    manual.store.fail(BUCKET, None, Unavailable("s3", "HTTP 503 SlowDown"))
    manual.events(*keys(5, "good"))
    manual.turns(TELL_AFTER_S - 2.0, every_s=0.5)
    assert manual.pipeline.fetch.notices() == []
    manual.turns(4.0)
    [notice] = manual.pipeline.fetch.notices()
    assert BUCKET in notice
    assert "HTTP 503 SlowDown" in notice
    assert manual.pipeline.fetch.unready() == []
    manual.store.heal()
    manual.turns(6.0)
    assert manual.pipeline.fetch.notices() == []
