"""The clock that tells a forgotten call from an absent broker."""

from __future__ import annotations

import pytest

from workers.backends.kafka.client import CallWatchdog


class Scene:
    """A broker that answers or not, and time that passes by hand."""

    def __init__(self, limit_s: float = 6.0) -> None:
        self.now = 0.0
        self.answers = True
        self.asked = 0
        self.clock = CallWatchdog(limit_s, self._answer, lambda: self.now)

    def _answer(self) -> bool:
        self.asked += 1
        return self.answers

    def pass_time(self, seconds: int) -> list[str | None]:
        """Check once a second."""
        said = []
        for _ in range(seconds):
            self.now += 1
            said.append(self.clock.check())
        return said


def test_a_call_is_stuck_once_the_broker_has_answered_others_for_the_whole_limit() -> None:
    scene = Scene()
    with scene.clock.watching("the commit"):
        said = scene.pass_time(7)
    assert said[:-1] == [None] * 6
    assert said[-1] == "the commit has not returned for 7 s, while the brokers answer others"


def test_it_says_how_long_the_call_has_not_returned_and_not_how_long_it_watches() -> None:
    scene = Scene()
    scene.pass_time(30)
    with scene.clock.watching("the commit"):
        assert scene.pass_time(7)[-1] == "the commit has not returned for 7 s, while the brokers answer others"


def test_a_limit_of_a_second_asks_after_half_of_it() -> None:
    scene = Scene(limit_s=1.0)
    with scene.clock.watching("the commit"):
        scene.now = 0.4
        scene.clock.check()
        assert scene.asked == 0
        scene.now = 0.5
        scene.clock.check()
        assert scene.asked == 1


def test_time_without_a_broker_does_not_count() -> None:
    scene = Scene()
    scene.answers = False
    with scene.clock.watching("the commit"):
        assert scene.pass_time(60) == [None] * 60
        scene.answers = True
        assert scene.pass_time(6) == [None] * 6
        assert scene.pass_time(1) != [None]


def test_a_break_in_the_answers_starts_the_clock_again() -> None:
    scene = Scene()
    with scene.clock.watching("the commit"):
        scene.pass_time(5)
        scene.answers = False
        scene.pass_time(1)
        scene.answers = True
        assert scene.pass_time(6) == [None] * 6


def test_many_calls_that_return_are_never_stuck_together() -> None:
    scene = Scene()
    for _ in range(10):
        with scene.clock.watching("the commit"):
            assert scene.pass_time(4) == [None] * 4


def test_no_broker_is_asked_while_no_call_is_in_progress_or_it_is_young() -> None:
    scene = Scene()
    scene.pass_time(3)
    with scene.clock.watching("the commit"):
        scene.now += 0.5
        assert scene.clock.check() is None
    assert scene.asked == 0


def test_a_call_that_raises_is_over() -> None:
    scene = Scene()
    with pytest.raises(KeyError), scene.clock.watching("the commit"):
        raise KeyError
    assert scene.pass_time(20) == [None] * 20
