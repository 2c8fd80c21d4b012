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
        """As `put`, without waking the thread: it takes this with what comes next, or at the end of its wait."""
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
    """One step of the pipeline. What is said here is so for a stage that needs none of it."""

    places: ClassVar[Sequence[Place]] = ()
    """Where an image can be while it is in this stage's hands."""

    thread: str | None = None
    """The name of its thread, which calls `step` again and again; None: others' threads do its work."""

    def step(self, wait_s: float = WAIT_S) -> None:
        """Work on what is ready; waits for it that long. The stage's own thread."""

    def wake(self) -> None:
        """Let `step` come back at once. Any thread."""

    def wind_up(self) -> None:
        """Do what must not be left undone, and begin nothing new. After the end of all threads."""

    def poll(self) -> None:
        """Send on what has waited for a time that has come. Poll thread, at every turn."""

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
        """Why it stands still as a whole, for people; None: it does not. Any thread."""
        return None

    def unready(self) -> list[str]:
        """Why the worker can't do its work here, for people. Any thread."""
        return []

    def notices(self) -> list[str]:
        """What a person should know although the worker is ready: it holds some work up. Any thread."""
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
        """One more queue; `work` is called with all that is ready, up to `most()`, and after that of earlier ones."""
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
