"""Ends a command on a signal, even deep inside a library."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import FrameType
from typing import TypeVar

Answer = TypeVar("Answer")

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_ended(work: Callable[[], Answer], clean: Callable[[signal.Signals], int]) -> Answer:
    """Do the work; on the first SIGINT, SIGTERM or SIGHUP clean up instead and end this process.

    An exception raised by a signal's handler would not do: client libraries run event loops of their own in the
    calling thread, and keep whatever is raised inside for a caller that may never ask. So the work has a thread of its
    own, the main thread only waits, and after a signal nothing waits for the work any more.

    Args:
        work: runs in another thread; what it returns or raises comes out here.
        clean: runs in the main thread, undisturbed by further signals, while the work may still be going on. The
            process ends with the exit code that it returns.
    """
    settled: SimpleQueue[signal.Signals | None] = SimpleQueue()  # a handler may put while this thread gets

    def end(which: int, _: FrameType | None) -> None:
        settled.put(signal.Signals(which))

    previous = {which: signal.signal(which, end) for which in _ENDINGS}
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="work") as pool:
            future = pool.submit(work)
            future.add_done_callback(lambda _: settled.put(None))
            which = settled.get()
            if which is not None:
                _leave(clean(which))
            return future.result()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
