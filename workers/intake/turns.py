"""Partition queues; the one that used the decoders least is next.

Partitions share time, not numbers of images: an image may take a thousand times as long as another, and only its own
partition waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

from workers.lanes import Precedence
from workers.types import Partition

Item = TypeVar("Item")

_LATELY_S = 60.0
_LEAST_S = 0.005
"""Least seconds of an item, and the estimate for a partition's first one."""


class Turns(Generic[Item]):
    """Items by partition, which all get the same time. For one thread.

    As in start-time fair queueing, each item delays its partition's next turn by the time that the last one took. A
    partition saves no time while it is idle. Live partitions go before background ones.

    Args:
        ranks: number of ranks; a partition's items of a lower rank go first.
    """

    def __init__(self, ranks: int = 1) -> None:
        self._ranks = ranks
        self._queues: dict[Partition | None, tuple[deque[Item], ...]] = {}
        self._turns: dict[Partition | None, float] = {}
        self._took: dict[Partition | None, float] = {}
        self._asked: dict[Partition | None, float] = {}
        self._now = 0.0
        self._background: set[Partition | None] = set()
        self._precedence = Precedence()

    def add(
        self, partition: Partition | None, item: Item, rank: int = 0, *, first: bool = False, background: bool = False
    ) -> None:
        """Queue an item at the end of its partition and rank. `first`: at their beginning."""
        if background:
            self._background.add(partition)
        if partition not in self._queues:
            self._queues[partition] = tuple(deque() for _ in range(self._ranks))
            self._turns[partition] = max(self._now, self._turns.get(partition, 0.0))
        self._asked[partition] = time.monotonic()
        queue = self._queues[partition][rank]
        (queue.appendleft if first else queue.append)(item)

    def next(self, from_rank: int = 0, passed: Collection[Partition | None] = ()) -> Item | None:
        """The next item of this rank or above; it stays queued. `passed`: partitions that are passed over."""
        found = self._next(from_rank, passed)
        return None if found is None else found[1][0]

    def take(self, from_rank: int = 0, passed: Collection[Partition | None] = ()) -> Item:
        """Remove and return what `next` returns."""
        found = self._next(from_rank, passed)
        assert found is not None
        partition, queue = found
        self._now = max(self._now, self._turns[partition])
        self._turns[partition] += self.expected_s(partition)
        self._precedence.had_turn(
            background=partition in self._background, background_waits=not self._background.isdisjoint(self._queues)
        )
        item = queue.popleft()
        if not any(self._queues[partition]):
            del self._queues[partition]
        return item

    def took(self, partition: Partition | None, seconds: float) -> None:
        """Record how long an item of this partition took."""
        self._took[partition] = max(_LEAST_S, seconds)

    def expected_s(self, partition: Partition | None) -> float:
        """Seconds that the partition's next item should take, like its last."""
        return self._took.get(partition, _LEAST_S)

    def alone(self, partition: Partition | None) -> bool:
        """Whether no other partition has had an item within the last minute."""
        since = time.monotonic() - _LATELY_S
        return all(asked < since for other, asked in self._asked.items() if other != partition)

    def drain(self) -> Iterator[Item]:
        queues, self._queues = self._queues, {}
        for ranked in queues.values():
            for queue in ranked:
                yield from queue

    def _next(
        self, from_rank: int, passed: Collection[Partition | None]
    ) -> tuple[Partition | None, deque[Item]] | None:
        ready = [
            (self._turns[partition], partition, queue)
            for partition, ranked in self._queues.items()
            if partition not in passed
            and (queue := next((each for each in ranked[from_rank:] if each), None)) is not None
        ]
        if not ready:
            return None
        background = self._precedence.background_is_next
        _, partition, queue = min(ready, key=lambda each: ((each[1] in self._background) is not background, each[0]))
        return partition, queue
