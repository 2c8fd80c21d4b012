"""The parent of several workers: what each exit code, signal and idle moment leads to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import eventually
from workers.service.parent import WINDOW_S, RecentExits

SCRIPT = """
import os, signal, sys, time
from workers.service import parent
from workers.service.logs import start_logging
from workers.tied import tie_to
start_logging("info", "text")
parent._LONGEST_PAUSE_S, parent._TICK_S = 0.05, 0.05
def start(number):
    own = os.getpid()
    if pid := os.fork():
        return pid
    tie_to(own)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    {body}
    while True:
        time.sleep(60)
sys.exit(parent.Parent(start, [1, 2], probes=None, end_s={end_s}, idle=lambda: {idle}).run())
"""


@contextmanager
def parent(body: str = "pass", idle: str = "False", end_s: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    """A parent of two workers that run this code and then wait for SIGTERM, which ends them with 0."""
    command = [sys.executable, "-c", SCRIPT.format(body=body, idle=idle, end_s=end_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def ended(body: str, idle: str = "False") -> tuple[int, str]:
    with parent(body, idle) as running:
        said = running.communicate(timeout=60)[1]
        return running.returncode, said


def pids(running: subprocess.Popen[str], count: int = 2) -> list[int]:
    """The process ids of the next started workers."""
    assert running.stderr is not None
    found: list[int] = []
    for line in running.stderr:
        if " is process " in line:
            found.append(int(line.rsplit(" ", 1)[1]))
        if len(found) == count:
            return found
    raise AssertionError("no worker was started")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_waits_twice_as_long_for_each_start_within_ten_minutes() -> None:
    endings = RecentExits([1, 2])
    assert [endings.add(1, 3, now) for now in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert endings.add(1, 3, WINDOW_S + 6.5) == 2, "all but one are forgotten"
    assert endings.add(2, 3, 7) == 1, "each has its own"


def test_it_is_hopeless_once_every_worker_ended_three_times_in_ten_minutes() -> None:
    endings = RecentExits([1, 2])
    for now in range(5):
        endings.add(1, 3, now)
    endings.add(2, 1, 5)
    endings.add(2, 137, 6)
    assert not endings.hopeless()
    endings.add(2, 4, 7)
    assert endings.hopeless()
    assert endings.worst() == 137
    endings.add(2, 1, WINDOW_S + 5.5)
    assert not endings.hopeless(), "the first worker's endings are too old"
    assert endings.worst() == 137


@pytest.mark.slow
def test_a_wrong_setting_of_one_worker_ends_all_with_2() -> None:
    code, said = ended("if number == 1: os._exit(2)")
    assert code == 2, said


@pytest.mark.slow
def test_all_end_with_the_highest_code_when_each_has_ended_three_times() -> None:
    code, said = ended("os._exit(number if number == 1 else 3)")
    assert code == 3, said
    assert said.count(" is process ") >= 6


@pytest.mark.slow
@pytest.mark.parametrize("end", ["os._exit(0)", "os._exit(1)", "os._exit(3)", "os._exit(4)", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_ends_unasked_is_started_again_beside_the_other(end: str) -> None:
    with parent(f"if number == 1: {end}") as running:
        first = pids(running)
        again = pids(running, 3)
        assert len({*first, *again}) == 5
        assert is_alive(first[1]), "the other goes on"
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_worker(which: signal.Signals) -> None:
    with parent() as running:
        workers = pids(running)
        running.send_signal(which)
        said = running.communicate(timeout=60)[1]
        assert running.returncode == 0, said
        assert not any(map(is_alive, workers))


STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.slow
def test_a_second_signal_leaves_at_once_and_takes_all_along() -> None:
    with parent(STUBBORN) as running:
        workers = pids(running)
        time.sleep(0.2)  # so that they ignore the first signal
        running.send_signal(signal.SIGTERM)
        assert running.stderr is not None
        assert "draining" in running.stderr.readline()
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
        assert running.returncode == 128 + signal.SIGTERM
        eventually(lambda: not any(map(is_alive, workers)), 10)


@pytest.mark.slow
def test_a_worker_that_does_not_end_in_time_is_killed() -> None:
    with parent(STUBBORN, end_s=0.5) as running:
        pids(running)
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
        assert running.returncode == 128 + signal.SIGKILL


@pytest.mark.slow
def test_all_end_once_all_are_idle() -> None:
    code, said = ended("pass", idle="True")
    assert (code, "all workers are idle" in said) == (0, True)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent() -> None:
    with parent() as running:
        workers = pids(running)
        running.kill()
        eventually(lambda: not any(map(is_alive, workers)), 10)
