"""Queues between the pipeline's threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class StageQueue(Generic[Item]):
    """A queue between threads; one call takes several items.

    Its length is bounded by the budgets of what is put in, not here: a put never waits.

    Args:
        filled: notified of every put; given where one thread waits for several queues.
    """

    def __init__(self, filled: threading.Condition | None = None) -> None:
        self._items: deque[Item] = deque()
        self._filled = filled or threading.Condition()

    def put(self, *items: Item) -> None:
        with self._filled:
            self._items.extend(items)
            self._filled.notify()

    def add(self, item: Item) -> None:
        """As `put`, without waking the thread: it takes this with what comes next, or at the end of its wait."""
        with self._filled:
            self._items.append(item)

    def take(self, most: int) -> list[Item]:
        """Up to `most` items in FIFO order; empty if there are none."""
        with self._filled:
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def __len__(self) -> int:
        return len(self._items)
