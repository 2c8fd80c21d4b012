"""A stage as the worker knows it: its thread, queues and bounds, and when it is stalled."""

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
"""Items of one queue that are worked on together."""


class Stage:
    """One step of the pipeline, with defaults for the rest."""

    places: ClassVar[Sequence[Place]] = ()
    """Where an image can be while it is in this stage's hands."""

    thread: str | None = None
    """The name of its thread, which calls `step` again and again; None: others' threads do its work."""

    def step(self, wait_s: float = WAIT_S) -> None:
        """Wait that long for items and work on them. The stage's thread."""

    def wake(self) -> None:
        """Let `step` come back at once. Any thread."""

    def wind_up(self) -> None:
        """Do what must not be left undone, and begin nothing new. After the end of all threads."""

    def poll(self) -> None:
        """Send on tasks whose waiting time is over. Poll thread, every turn."""

    def drop_ended(self) -> None:
        """Drop the tasks that wait here and whose assignment has ended. Poll thread."""

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether no new record of this assignment should be admitted for now. Poll thread."""
        return False

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """What bounds its memory, by the name that metrics show."""
        return {}

    def divide(self, partitions: int) -> None:
        """Share its bounds among so many partitions."""
        for budget in self.budgets.values():
            budget.divide(partitions)

    @property
    def limits_s(self) -> Mapping[str, float]:
        """Most seconds for one image, by working place of the stage."""
        return {}

    def stalled(self, now: float) -> str | None:
        """Why the whole stage stands still; None: it does not. Any thread."""
        return None

    def unready(self) -> list[str]:
        """Why the worker can't do its work here, for people. Any thread."""
        return []

    def notices(self) -> list[str]:
        """Sentences on held-up work of a ready worker. Any thread."""
        return []

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        """What it shows besides its budgets and places."""
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
        """Work on what is ready."""
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
