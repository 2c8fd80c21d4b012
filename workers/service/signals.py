"""SIGTERM and SIGINT: the first asks to stop, a second one does not wait for it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from workers.service.logs import flush_logs

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)
_END = 0


def leave_at_once(number: int) -> NoReturn:
    """End without draining, with a shell's exit code of the signal.

    That is 130 or 143.

    Safe at any moment: what was not committed comes again.
    """
    flush_logs()
    os._exit(128 + number)


@contextmanager
def stop_on_signals(stop: Callable[[], None], hurry: Callable[[int], None] = leave_at_once) -> Iterator[None]:
    """In the body, the first SIGTERM or SIGINT calls `stop`, others `hurry`.

    Both are called on a thread of their own. A handler written in Python would run in the middle of the main thread's
    work, where it could wait for a lock that the main thread holds, and it would not run at all while the main thread
    waits without end: a signal that comes just before such a wait begins does not interrupt it. So the interpreter
    writes each signal's number to a socket, in C and at once, and the thread reads it there. Only the main thread may
    enter.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _no_more_than_wake_up) for number in STOPPING}
    thread = threading.Thread(target=_act, args=(told, stop, hurry), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        tell.send(bytes([_END]))
        thread.join()
        tell.close()
        told.close()


def _no_more_than_wake_up(_number: int, _frame: FrameType | None) -> None:
    """Replace the signal's default action, which would end the process."""


def _act(told: socket.socket, stop: Callable[[], None], hurry: Callable[[int], None]) -> None:
    stopping = False
    while (number := told.recv(1)[0]) != _END:
        if number not in STOPPING:
            continue
        if stopping:
            logger.warning("%s again: leaving without draining", signal.Signals(number).name)
            hurry(number)
        else:
            stopping = True
            logger.info("%s: draining; once more leaves at once", signal.Signals(number).name)
            try:
                stop()
            except Exception:  # such as no thread for the deadline: without an end the signal would be lost
                logger.exception("the drain can't begin: leaving without it")
                hurry(number)
