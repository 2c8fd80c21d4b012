"""Tasks that wait for a neighbour to recover, and what is known of who answers."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from typing import Generic, TypeVar

from workers.vocabulary import Epoch

Waiter = TypeVar("Waiter")


class Neighbours(Generic[Waiter]):
    """Thread-safe. Times are the clock's monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Epoch, Waiter]] = []
        self._order = itertools.count()
        self._waiting: Counter[Epoch] = Counter()
        self._read_at: dict[str, float] = {}

    def wait(self, epoch: Epoch, until: float, waiter: Waiter) -> None:
        with self._lock:
            heapq.heappush(self._heap, (until, next(self._order), epoch, waiter))
            self._waiting[epoch] += 1

    def due(self, now: float) -> list[Waiter]:
        """Those whose time has come; they wait no more."""
        found: list[Waiter] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                _, _, epoch, waiter = heapq.heappop(self._heap)
                self._waiting[epoch] -= 1
                if not self._waiting[epoch]:
                    del self._waiting[epoch]
                found.append(waiter)
        return found

    def holds_back(self, epoch: Epoch) -> bool:
        """Does something of this epoch wait? Then its partition takes no new records."""
        with self._lock:
            return epoch in self._waiting

    def note_read(self, bucket: str, now: float) -> None:
        with self._lock:
            self._read_at[bucket] = now

    def has_read(self, bucket: str, *, since: float) -> bool:
        """Could an object of this bucket be read since then?"""
        with self._lock:
            return self._read_at.get(bucket, float("-inf")) >= since
