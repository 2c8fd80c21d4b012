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


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    breaker.failed("a", 0.0)
    breaker.failed("b", 0.0)
    assert breaker.succeeded(0.0) is False
    assert breaker.failed("c", 0.0) is False


def test_the_first_probe_comes_after_half_a_pause_to_a_whole_one() -> None:
    pauses = set()
    for _ in range(200):
        breaker = Breaker(PAUSE_S, LONGEST_S)
        fail(breaker, now=100.0)
        pauses.add(pause_s(breaker, 100.0))
    assert PAUSE_S / 2 <= min(pauses) < PAUSE_S * 0.6
    assert PAUSE_S * 0.9 < max(pauses) <= PAUSE_S + 0.1


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
