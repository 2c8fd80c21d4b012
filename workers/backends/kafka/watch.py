"""A clock for calls that may never return, which another thread reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CallWatchdog:
    """Tells a call that waits for an absent broker from one that has been forgotten by its client.

    Stuck is a call in progress while fresh connections have been answered for `limit_s` without a break. Time without
    a broker does not count.

    Args:
        limit_s: longer than an answer may take while the broker is there: the client's request timeout.
        answers: opens fresh connections and says whether every broker answered; may take seconds.
    """

    def __init__(self, limit_s: float, answers: Callable[[], bool], now: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._answers = answers
        self._now = now
        self._lock = threading.Lock()
        self._call: tuple[str, float] | None = None
        self._watched: tuple[str, float] | None = None
        self._answering_since: float | None = None

    @contextmanager
    def watching(self, call: str) -> Iterator[None]:
        """Context for one call of the watched thread, named for people."""
        with self._lock:
            self._call = (call, self._now())
        try:
            yield
        finally:
            with self._lock:
                self._call = None

    def check(self) -> str | None:
        """What is stuck, or None. Call it every second or so, from one thread that is not the watched one."""
        with self._lock:
            call = self._call
        if call is None or self._now() - call[1] < min(1.0, self._limit_s / 2):
            self._answering_since = None
            return None
        if call != self._watched:
            self._watched, self._answering_since = call, None
        if not self._answers():
            self._answering_since = None
            return None
        if self._answering_since is None:
            self._answering_since = self._now()
        if self._now() - self._answering_since < self._limit_s:
            return None
        return f"{call[0]} has not returned for {self._now() - call[1]:.0f} s, while the brokers answer others"
