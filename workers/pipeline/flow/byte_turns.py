"""Partitions take turns by bytes: deficit round robin (Shreedhar and Varghese, 1995)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from workers.types import Assignment

Item = TypeVar("Item")

TURN_BYTES = 64 << 10
"""Bytes that each turn adds to a partition's credit: the largest size of an ordinary event."""


BACKGROUND_TURN_BYTES = 8 << 10
"""Of a background partition, so that live items that come meanwhile wait for a few of its items."""


@dataclass(slots=True)
class _Queue(Generic[Item]):
    items: deque[tuple[Item, int]] = field(default_factory=deque)
    bytes: int = 0
    credit: int = 0


class ByteTurns(Generic[Item]):
    """One queue for each assignment. Not thread-safe."""

    def __init__(self, may_leave: Callable[[Item], bool]) -> None:
        self._may_leave = may_leave
        self._queues: dict[Assignment, _Queue[Item]] = {}

    def add(self, assignment: Assignment, item: Item, size: int, *, first: bool = False) -> None:
        queue = self._queues.setdefault(assignment, _Queue())
        (queue.items.appendleft if first else queue.items.append)((item, size))
        queue.bytes += size

    def round(self) -> Iterator[Item]:
        """Yield the items of one round: each live partition has one turn, and then one background partition.

        If all first items are larger than their credits, further turns follow until an item leaves.
        """
        yielded = False
        while not yielded and (ready := self._ready()):
            for assignment in ready:
                for item in self._turn(assignment):
                    yielded = True
                    yield item

    def rounds(self) -> Iterator[Item]:
        left = None
        while left != len(self):
            left = len(self)
            yield from self.round()

    def drop_ended(self) -> int:
        ended = [assignment for assignment in self._queues if not assignment.current]
        return sum(len(self._queues.pop(assignment).items) for assignment in ended)

    def clear(self) -> None:
        self._queues.clear()

    @property
    def sizes(self) -> dict[Assignment, int]:
        return {assignment: queue.bytes for assignment, queue in self._queues.items()}

    def __len__(self) -> int:
        return sum(len(queue.items) for queue in self._queues.values())

    def _ready(self) -> list[Assignment]:
        live = [place for place in self._queues if not place.background and self._may_leave(self._first(place))]
        behind = (place for place in self._queues if place.background and self._may_leave(self._first(place)))
        return [*live, *islice(behind, 1)]

    def _first(self, assignment: Assignment) -> Item:
        return self._queues[assignment].items[0][0]

    def _turn(self, assignment: Assignment) -> Iterator[Item]:
        queue = self._queues[assignment]
        queue.credit += BACKGROUND_TURN_BYTES if assignment.background else TURN_BYTES
        while queue.items and queue.items[0][1] <= queue.credit:
            if not self._may_leave(queue.items[0][0]):
                queue.credit = 0
                return
            item, size = queue.items.popleft()
            queue.bytes -= size
            queue.credit -= size
            del self._queues[assignment]
            if queue.items:
                self._queues[assignment] = queue
            yield item
