"""Queues between the pipeline's threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class StageQueue(Generic[Item]):
    """A queue between threads that hands out all that is ready, up to a number. Closing it wakes the reader.

    Its length is bounded by the budgets of what is put in, not here: a put never waits.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._filled = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> None:
        with self._filled:
            self._items.append(item)
            self._filled.notify()

    def take(self, most: int, timeout_s: float) -> list[Item]:
        """Up to `most` items at once; waits for the first at most `timeout_s`. Empty: none came, or it is closed."""
        with self._filled:
            if not self._items and not self._closed:
                self._filled.wait(timeout_s)
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def close(self) -> None:
        with self._filled:
            self._closed = True
            self._filled.notify_all()

    def __len__(self) -> int:
        return len(self._items)
