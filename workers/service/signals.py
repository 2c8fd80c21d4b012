"""SIGTERM and SIGINT: the first asks to stop, a second one does not wait for it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from workers.service.logs import flush_logs

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)


def leave_at_once(number: int) -> NoReturn:
    """End without draining, with the exit code that a shell gives to a signal (130, 143).

    Safe at any moment: what was not committed comes again.
    """
    flush_logs()
    os._exit(128 + number)


@contextmanager
def stop_on_signals(stop: Callable[[], None], hurry: Callable[[int], None] = leave_at_once) -> Iterator[None]:
    """While the body runs, a first SIGTERM or SIGINT calls `stop` and each further one `hurry`.

    Both are called on a thread of their own: a signal handler runs in the middle of the main thread's work and could
    wait there for a lock that the main thread holds. Only the main thread may enter.
    """
    arrived: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # its put may interrupt itself

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.put(number)

    thread = threading.Thread(target=_act, args=(arrived, stop, hurry), name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        arrived.put(None)
        thread.join()


def _act(arrived: queue.SimpleQueue[int | None], stop: Callable[[], None], hurry: Callable[[int], None]) -> None:
    stopping = False
    while (number := arrived.get()) is not None:
        if stopping:
            logger.warning("%s again: leaving without draining", signal.Signals(number).name)
            hurry(number)
        else:
            stopping = True
            logger.info("%s: draining; once more leaves at once", signal.Signals(number).name)
            stop()
