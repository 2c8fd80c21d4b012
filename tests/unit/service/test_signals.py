"""Signals ask to stop, on a thread of their own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from workers.service.signals import stop_on_signals


def test_the_first_signal_stops_and_each_further_one_hurries() -> None:
    stopped, hurried = threading.Event(), threading.Event()
    numbers: list[int] = []

    def hurry(number: int) -> None:
        numbers.append(number)
        if len(numbers) == 2:
            hurried.set()

    with stop_on_signals(stopped.set, hurry):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(30)
        assert numbers == []
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert hurried.wait(30)
    assert sorted(numbers) == [signal.SIGINT, signal.SIGTERM]


def test_stop_may_wait_for_a_lock_that_the_main_thread_holds() -> None:
    lock, stopped = threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            stopped.set()

    with stop_on_signals(stop, lambda _: None):
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stopped.wait(0.1)
        assert stopped.wait(30)


def test_the_handlers_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_a_second_signal_ends_a_process_whose_main_thread_waits_without_end() -> None:
    """Many times, because a handler in Python would miss the signal only when it comes just before the wait."""
    code = (
        "import threading; from workers.service.signals import stop_on_signals\n"
        "with stop_on_signals(lambda: print('stopping', flush=True)):\n"
        "    print('up', flush=True); threading.Event().wait()"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
                process.send_signal(signal.SIGTERM)
                assert process.stdout.readline() == "stopping\n"
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 128 + signal.SIGTERM
            finally:
                process.kill()


def test_where_the_drain_can_not_begin_the_process_leaves_at_once(caplog: pytest.LogCaptureFixture) -> None:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()

    def stop() -> None:
        raise RuntimeError("can't start new thread")

    with stop_on_signals(stop, left.put):
        os.kill(os.getpid(), signal.SIGTERM)
        assert left.get(timeout=30) == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert left.get(timeout=30) == signal.SIGINT
    assert "the drain can't begin: leaving without it" in caplog.messages
