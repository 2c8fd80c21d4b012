"""A stage's interface to the worker: thread, queues, bounds and stalls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from workers.metrics import ObservedGauge, Reader
from workers.pipeline.flow.budget import Budget
from workers.pipeline.progress import Place
from workers.types import Assignment

Item = TypeVar("Item")


class StageQueue(Generic[Item]):
    """A queue between threads; one call takes several items.

    The budgets of its items bound its length: a put never waits.

    Args:
        filled: notified of every put, for a thread that waits for several queues.
    """

    def __init__(self, filled: threading.Condition | None = None) -> None:
        self._items: deque[Item] = deque()
        self._filled = filled or threading.Condition()

    def put(self, *items: Item) -> None:
        with self._filled:
            self._items.extend(items)
            self._filled.notify()

    def add(self, item: Item) -> None:
        """Put without waking the thread; the next item or time-out will."""
        with self._filled:
            self._items.append(item)

    def take(self, most: int) -> list[Item]:
        """Up to `most` items in FIFO order; empty if there are none."""
        with self._filled:
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def __len__(self) -> int:
        return len(self._items)


WAIT_S = 0.2
_MOST = 256
"""A queue's items that are handled together."""


class Stage:
    """One step of the pipeline, with defaults for the rest."""

    places: ClassVar[Sequence[Place]] = ()
    """Places of an image in this stage."""

    thread: str | None = None
    """Name of the thread that calls `step` in a loop; None: other threads do the work."""

    def step(self, wait_s: float = WAIT_S) -> None:
        """Wait at most this long for items and handle them. Stage's thread."""

    def wake(self) -> None:
        """Let `step` come back at once. Any thread."""

    def wind_up(self) -> None:
        """Finish the work that must not be lost. After the end of all threads."""

    def poll(self) -> None:
        """Hand on tasks whose waiting time is over. Poll thread, every turn."""

    def drop_ended(self) -> None:
        """Drop waiting tasks of ended assignments. Poll thread."""

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether no new record of this assignment should be admitted for now. Poll thread."""
        return False

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """The budgets that bound its memory, by metrics name."""
        return {}

    def divide(self, partitions: int) -> None:
        """Share its bounds among this many partitions."""
        for budget in self.budgets.values():
            budget.divide(partitions)

    @property
    def limits_s(self) -> Mapping[str, float]:
        """Most seconds for one image, by the stage's working places."""
        return {}

    def stalled(self, now: float) -> str | None:
        """Why the whole stage has stalled; None: it has not. Any thread."""
        return None

    def unready(self) -> list[str]:
        """Why the worker can't do its work here, for people. Any thread."""
        return []

    def notices(self) -> list[str]:
        """Sentences about delayed work of a ready worker. Any thread."""
        return []

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        """Gauges besides those of its budgets and places."""
        return {}


class QueueStage(Stage):
    """A stage with its own thread, which drains its typed queues."""

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self._filled = threading.Condition()
        self._woken = False
        self._queues: list[StageQueue[Any]] = []
        self._work: list[Callable[[], None]] = []

    def _queue(
        self, work: Callable[[Sequence[Item]], None], *, most: Callable[[], int] = lambda: _MOST
    ) -> StageQueue[Item]:
        """Add a queue; `work` gets up to `most()` items, after earlier queues."""
        queue = StageQueue[Item](self._filled)
        self._queues.append(queue)
        self._work.append(partial(_work_off, queue, work, most))
        return queue

    def step(self, wait_s: float = WAIT_S) -> None:
        with self._filled:
            self._filled.wait_for(lambda: self._woken or len(self), wait_s)
            self._woken = False
        self.work()

    def work(self) -> None:
        """Handle the ready items."""
        for work in self._work:
            work()

    def wake(self) -> None:
        with self._filled:
            self._woken = True
            self._filled.notify()

    def __len__(self) -> int:
        """Items that wait in its queues."""
        return sum(len(queue) for queue in self._queues)


def _work_off(queue: StageQueue[Item], work: Callable[[Sequence[Item]], None], most: Callable[[], int]) -> None:
    if items := queue.take(most()):
        work(items)
