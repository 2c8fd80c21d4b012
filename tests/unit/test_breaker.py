"""A breaker, called at times of the test's choosing."""

import pytest

from workers.breaker import OPENS_AFTER, Breaker

PAUSE_S, LONGEST_S = 8.0, 30.0


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(PAUSE_S, LONGEST_S)


def state(breaker: Breaker) -> str:
    return breaker.state


def fail(breaker: Breaker, now: float) -> bool:
    return [breaker.failed(f"key {number}", now) for number in range(OPENS_AFTER)][-1]


def pause_s(breaker: Breaker, now: float) -> float:
    tenths = next(tenths for tenths in range(1_000) if breaker.may_probe(now + tenths / 10))
    return tenths / 10


def test_it_opens_when_that_many_different_things_failed_in_a_row(breaker: Breaker) -> None:
    assert [breaker.failed("the same", 0.0) for _ in range(10)] == [False] * 10
    assert breaker.failed("another", 0.0) is False
    assert state(breaker) == "closed"
    assert breaker.failed("a third", 0.0) is True
    assert state(breaker) == "open"
    assert breaker.failed("a fourth", 0.0) is False


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    breaker.failed("a", 0.0)
    breaker.failed("b", 0.0)
    assert breaker.succeeded(0.0) is False
    assert breaker.failed("c", 0.0) is False


def test_closed_it_sends_no_probe(breaker: Breaker) -> None:
    assert not breaker.may_probe(1e9)


def test_the_first_probe_comes_after_half_a_pause_to_a_whole_one() -> None:
    pauses = set()
    for _ in range(200):
        breaker = Breaker(PAUSE_S, LONGEST_S)
        fail(breaker, now=100.0)
        pauses.add(pause_s(breaker, 100.0))
    assert PAUSE_S / 2 <= min(pauses) < PAUSE_S * 0.6
    assert PAUSE_S * 0.9 < max(pauses) <= PAUSE_S + 0.1


def test_one_probe_is_on_its_way_at_a_time_unless_it_is_not_heard_of(breaker: Breaker) -> None:
    fail(breaker, now=0.0)
    breaker.probe(10.0)
    assert state(breaker) == "half-open"
    assert not breaker.may_probe(14.9)
    assert breaker.may_probe(15.0)


def test_a_probe_that_never_asked_is_followed_at_once(breaker: Breaker) -> None:
    fail(breaker, now=0.0)
    breaker.probe(10.0)
    breaker.probe_lost()
    assert state(breaker) == "open"
    assert breaker.may_probe(10.0)


def test_pauses_double_up_to_the_longest() -> None:
    for failed_probes, longest_s in ((1, 16.0), (2, LONGEST_S), (3, LONGEST_S)):
        pauses = set()
        for _ in range(200):
            breaker = Breaker(PAUSE_S, LONGEST_S)
            fail(breaker, now=0.0)
            for number in range(failed_probes):
                breaker.probe(100.0 * number)
                breaker.probe_failed(100.0 * number)
            assert state(breaker) == "open"
            pauses.add(pause_s(breaker, 100.0 * (failed_probes - 1)))
        assert longest_s / 2 <= min(pauses) < longest_s * 0.6
        assert longest_s * 0.9 < max(pauses) <= longest_s + 0.1


def test_a_probe_of_an_outage_that_is_over_says_nothing_about_the_next(breaker: Breaker) -> None:
    fail(breaker, now=0.0)
    breaker.probe(10.0)
    breaker.succeeded(10.1)
    fail(breaker, now=10.2)
    assert state(breaker) == "open"


def test_a_pause_is_short_again_after_it_had_closed(breaker: Breaker) -> None:
    fail(breaker, now=0.0)
    for now in (100.0, 200.0, 300.0):
        breaker.probe(now)
        breaker.probe_failed(now)
    assert breaker.succeeded(400.0) is True
    assert state(breaker) == "closed"
    assert fail(breaker, now=500.0) is True
    assert state(breaker) == "open"
    assert pause_s(breaker, 500.0) <= PAUSE_S + 0.1


def test_a_failure_of_the_whole_service_opens_it_at_once() -> None:
    breaker = Breaker(PAUSE_S, LONGEST_S, opens_after=3)
    assert breaker.failed("a call", 0.0, at_once=True) is True
    assert breaker.failed("a call", 0.0, at_once=True) is False, "it is open already"
    assert state(breaker) == "open"


def test_pauses_grow_while_probes_are_answered_and_calls_fail() -> None:
    breaker = Breaker(PAUSE_S, LONGEST_S, opens_after=1, jitter=0.0)
    for now, pause in ((0.0, PAUSE_S), (100.0, 2 * PAUSE_S), (200.0, LONGEST_S), (300.0, LONGEST_S)):
        assert breaker.failed("a call", now) is True
        assert breaker.pause_s(now) == pause
        assert breaker.pause_s(now + pause + 1.0) == 0.0
        breaker.probe(now + pause)
        breaker.probe_answered(now + pause)
        assert state(breaker) == "closed"
    breaker.succeeded(400.0)
    breaker.failed("a call", 500.0)
    assert breaker.pause_s(500.0) == PAUSE_S
