"""The gate before decoder and device: images pass together, a suspect passes alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from workers.pipeline.flow.grants import GrantLoop


class ExclusiveGate:
    """Lets images pass together, and a suspect alone. Thread-safe; no thread waits in it: what may go is called by the
    thread that opened the way.

    An image that comes after a waiting suspect waits behind it, so that it does get its turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bool, Callable[[], None]]] = deque()
        self._inside = 0
        self._alone = False
        self._grants = GrantLoop(self._lock, self._next)

    def enter(self, go: Callable[[], None], *, alone: bool) -> None:
        """Call `go` as soon as it may pass; `leave` must be called once for it afterwards."""
        with self._lock:
            self._waiting.append((alone, go))
        self._grants.run()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self._alone = False
        self._grants.run()

    def _next(self) -> Callable[[], None] | None:
        if not self._waiting or self._alone:
            return None
        alone, go = self._waiting[0]
        if alone and self._inside:
            return None
        self._waiting.popleft()
        self._inside += 1
        self._alone = alone
        return go
