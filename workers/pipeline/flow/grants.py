"""The loop that makes granted calls of budgets and the gate."""

from __future__ import annotations

import threading
from collections.abc import Callable


class GrantLoop:
    """Makes the calls that `choose` returns, one by one, outside the lock. Thread-safe.

    A call that makes room for the next one, or that asks for more, neither recurses nor waits: the thread that runs the
    loop already finds what it has left behind.

    Args:
        lock: held while `choose` is asked.
        choose: decides on one call and books it; None: there is none for now.
    """

    def __init__(self, lock: threading.Lock, choose: Callable[[], Callable[[], None] | None]) -> None:
        self._lock = lock
        self._choose = choose
        self._running = False

    def run(self) -> None:
        """Make every call that may be made by now; at once if another thread is about it."""
        with self._lock:
            if self._running:
                return
            call = self._choose()
            self._running = call is not None
        while call is not None:
            call()
            with self._lock:
                call = self._choose()
                self._running = call is not None
