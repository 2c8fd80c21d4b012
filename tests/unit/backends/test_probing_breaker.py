"""The breaker in front of the cache."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.waiting import eventually
from workers.backends.probing_breaker import ProbingBreaker

Make = Callable[..., ProbingBreaker]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes breakers and closes them after the test: until then each is shown among the metrics."""
    made: list[ProbingBreaker] = []

    def build(probe: Callable[[], bool], *, first_pause_s: float, last_pause_s: float = 5.0) -> ProbingBreaker:
        made.append(ProbingBreaker("x", probe, first_pause_s=first_pause_s, last_pause_s=last_pause_s))
        return made[-1]

    yield build
    for breaker in made:
        breaker.close()


def test_one_failure_opens_it_and_a_good_probe_closes_it(make: Make) -> None:
    well = threading.Event()
    breaker = make(well.wait, first_pause_s=0.02)
    assert breaker.closed()
    breaker.failure("why")
    assert not breaker.closed()
    well.set()
    eventually(breaker.closed)


def test_it_stays_open_while_probes_fail(make: Make) -> None:
    answers = iter([False, False, True])
    probes: list[float] = []

    def probe() -> bool:
        probes.append(time.monotonic())
        return next(answers)

    breaker = make(probe, first_pause_s=0.02)
    breaker.failure("why")
    eventually(breaker.closed)
    assert len(probes) == 3
    assert probes[1] - probes[0] >= 0.04
    assert probes[2] - probes[1] >= 0.08


def test_an_answer_to_a_call_from_before_it_opened_closes_nothing(make: Make) -> None:
    """Guard: of many calls at once the first fails and the last is answered; only a probe tells how it is now."""
    breaker = make(lambda: False, first_pause_s=600.0)
    breaker.failure("why")
    breaker.success()
    assert not breaker.closed()


def test_it_is_half_open_while_a_probe_is_on_its_way_which_keeps_no_process_from_ending(make: Make) -> None:
    breaker: ProbingBreaker
    shown: list[list[str]] = []
    daemons: list[bool] = []

    def probe() -> bool:
        shown.append([str(labels["state"]) for number, labels in breaker._states() if number])
        daemons.append(threading.current_thread().daemon)
        return True

    breaker = make(probe, first_pause_s=0.01)
    breaker.failure("why")
    eventually(breaker.closed)
    assert (shown, daemons) == ([["half-open"]], [True])


def test_a_failure_is_told_once_and_so_is_its_end(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([False, False, True])
    breaker = make(lambda: next(answers), first_pause_s=0.01)
    with caplog.at_level(logging.INFO):
        breaker.failure("why")
        breaker.failure("why")
        eventually(breaker.closed)
    assert caplog.messages == ["x failed: why; continuing without it until it answers a probe", "x is back"]


def test_many_failures_at_once_start_one_probe(make: Make) -> None:
    probing = threading.Event()
    probes: list[int] = []

    def probe() -> bool:
        probes.append(1)
        return probing.wait(30)

    breaker = make(probe, first_pause_s=0.01)
    for _ in range(10):
        breaker.failure("why")
    eventually(lambda: probes)
    time.sleep(0.1)
    assert probes == [1]
    probing.set()
    eventually(breaker.closed)


def test_a_dependency_that_answers_probes_and_fails_at_work_is_left_alone_for_longer_and_longer(make: Make) -> None:
    breaker = make(lambda: True, first_pause_s=0.02, last_pause_s=0.2)
    pauses = []
    for _ in range(3):
        began = time.monotonic()
        breaker.failure("why")
        eventually(breaker.closed)
        pauses.append(time.monotonic() - began)
    assert pauses[1] >= 0.04
    assert pauses[2] >= 0.08


def test_work_that_succeeds_makes_the_next_pause_short_again(make: Make) -> None:
    """The tenth pause that doubles would take ten seconds: longer than is waited for it."""
    breaker = make(lambda: True, first_pause_s=0.02, last_pause_s=20.0)
    for _ in range(10):
        breaker.failure("why")
        eventually(breaker.closed)
        breaker.success()


def test_close_ends_the_probing(make: Make) -> None:
    breaker = make(lambda: False, first_pause_s=0.01)
    breaker.failure("why")
    breaker.close()
    eventually(lambda: not any(thread.name == "tagstream-probe" for thread in threading.enumerate()))


def test_a_failure_after_its_close_begins_no_probing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    breaker = make(lambda: False, first_pause_s=0.01)
    breaker.close()
    breaker.failure("why")
    assert breaker.closed()
    assert caplog.messages == []


def test_a_probe_that_raises_is_told_once_and_followed_by_others(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Without its thread the breaker would stay open for as long as the process lives."""
    raised: list[Exception] = [MemoryError("no room"), OSError("too many open files")]

    def probe() -> bool:
        if raised:
            raise raised.pop(0)
        return True

    breaker = make(probe, first_pause_s=0.01)
    breaker.failure("why")
    eventually(breaker.closed)
    assert [message for message in caplog.messages if "by itself" in message] == [
        "a probe of x failed by itself; the next ones follow: MemoryError('no room')"
    ]


def test_where_no_thread_can_be_started_the_next_failure_tries_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probed = threading.Event()

    def probe() -> bool:
        probed.set()
        return False

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    breaker = make(probe, first_pause_s=0.01)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        breaker.failure("why")
    assert breaker.closed()
    assert caplog.messages[-1] == (
        "no thread to probe x can be started, so it is asked again at once: can't start new thread"
    )
    breaker.failure("why")
    assert probed.wait(30)
    assert not breaker.closed()
