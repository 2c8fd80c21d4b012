"""Waits of tests: for conditions, never for a time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FIRST_PAUSE_S = 0.005
_LAST_PAUSE_S = 0.1

BOUNDED_S = 30.0
"""A busy machine delays steps for seconds. Unbounded work must take longer than this."""


def eventually(
    condition: Callable[[], object],
    timeout_s: float = 60.0,
    why: Callable[[], str] = str,
    pause_s: float = _FIRST_PAUSE_S,
    last_pause_s: float = _LAST_PAUSE_S,
) -> None:
    """Asks until the condition is true, with growing pauses. Fails after `timeout_s`, with the text of `why`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about in {timeout_s} s\n{why()}"
        time.sleep(pause_s)
        pause_s = min(1.25 * pause_s, last_pause_s)


def asleep(thread: threading.Thread) -> bool:
    """Whether a thread waits for a condition, a lock or an event."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_filename == threading.__file__


def waiting(wait: Callable[..., object], *arguments: object) -> threading.Thread:
    """A thread that has begun to wait in this call."""
    thread = threading.Thread(target=wait, args=arguments, daemon=True)
    thread.start()
    eventually(lambda: asleep(thread), BOUNDED_S)
    return thread


def ends(thread: threading.Thread, within_s: float = BOUNDED_S) -> bool:
    thread.join(within_s)
    return not thread.is_alive()


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if the body took `BOUNDED_S`: for work that takes far longer, or for ever, without its limit."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUNDED_S


@contextmanager
def meanwhile(do: Callable[[], object], every_s: float) -> Iterator[None]:
    """Context in which another thread repeats this."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(every_s):
            do()

    thread = threading.Thread(target=work, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
