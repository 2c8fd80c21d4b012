"""Tasks that wait for a neighbour to recover, and what is known of who answers."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from typing import Generic, TypeVar

from workers.vocabulary import Partition

Waiter = TypeVar("Waiter")


class Neighbours(Generic[Waiter]):
    """Thread-safe. Times are the clock's monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Partition, Waiter]] = []
        self._order = itertools.count()
        self._waiting: Counter[Partition] = Counter()
        self._read_at: dict[str, float] = {}

    def wait(self, partition: Partition, until: float, waiter: Waiter) -> None:
        with self._lock:
            heapq.heappush(self._heap, (until, next(self._order), partition, waiter))
            self._waiting[partition] += 1

    def due(self, now: float) -> list[Waiter]:
        """Those whose time has come; they wait no more."""
        found: list[Waiter] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                _, _, partition, waiter = heapq.heappop(self._heap)
                self._waiting[partition] -= 1
                found.append(waiter)
        return found

    def all(self) -> list[Waiter]:
        """Everyone, at once: at the end of the process."""
        return self.due(float("inf"))

    def holds_back(self, partition: Partition) -> bool:
        """Does something of this partition wait? Then it takes no new records."""
        with self._lock:
            return self._waiting[partition] > 0

    def note_read(self, bucket: str, now: float) -> None:
        with self._lock:
            self._read_at[bucket] = now

    def has_read(self, bucket: str, *, since: float) -> bool:
        """Could an object of this bucket be read since then?"""
        with self._lock:
            return self._read_at.get(bucket, float("-inf")) >= since
