"""The base classes of the stages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from workers.lanes import Precedence
from workers.metrics import ObservedGauge, Reader
from workers.pipeline.flow.budget import Budget
from workers.pipeline.progress import Place
from workers.types import Assignment

Item = TypeVar("Item")


class StageQueue(Generic[Item]):
    """A FIFO queue between threads. `put` never waits: budgets limit the items.

    Args:
        filled: condition that each `put` notifies; queues of one thread share it.
    """

    def __init__(self, filled: threading.Condition | None = None) -> None:
        self._items: deque[Item] = deque()
        self._filled = filled or threading.Condition()

    def put(self, *items: Item) -> None:
        with self._filled:
            self._items.extend(items)
            self._filled.notify()

    def add(self, item: Item) -> None:
        """Add an item without waking the thread."""
        with self._filled:
            self._items.append(item)

    def take(self, most: int) -> list[Item]:
        with self._filled:
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def __len__(self) -> int:
        return len(self._items)


class LaneQueue(StageQueue[Item]):
    """A queue of live items. Background items go to another one.

    Args:
        background: that queue.
        waits: whether an item is background.
    """

    def __init__(
        self, filled: threading.Condition, background: StageQueue[Item], waits: Callable[[Item], bool]
    ) -> None:
        super().__init__(filled)
        self.background = background
        self._waits = waits

    def put(self, *items: Item) -> None:
        if behind := [item for item in items if self._waits(item)]:
            self.background.put(*behind)
        if len(behind) < len(items):
            super().put(*(item for item in items if not self._waits(item)))


WAIT_S = 0.2
MOST_ITEMS = 256
"""Most items that a step takes from one queue."""
MOST_BACKGROUND = 32
"""Those of background work: live items that come meanwhile wait for them."""


class Stage:
    """One step of the pipeline. The methods here do nothing; a stage overrides some."""

    places: ClassVar[Sequence[Place]] = ()
    """The places of this stage at which images are counted."""

    thread: str | None = None
    """Name of the stage's thread, which calls `step` in a loop; None: the stage has no thread."""

    def step(self, wait_s: float = WAIT_S) -> None:
        """Wait at most `wait_s` for items and handle them. Runs on the stage's thread."""

    def wake(self) -> None:
        """Make `step` return at once. Thread-safe."""

    def wind_up(self) -> None:
        """Finish pending work after all threads have ended."""

    def poll(self) -> None:
        """Continue tasks that have waited long enough. Runs on the poll thread."""

    def drop_ended(self) -> None:
        """Drop waiting tasks of ended assignments. Runs on the poll thread."""

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether the poll thread must not admit records of this assignment now."""
        return False

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """The budgets of this stage, by their names in the metrics."""
        return {}

    def divide(self, live: int, background: int = 0) -> None:
        """Divide the budgets among so many partitions. Runs on the poll thread."""
        for budget in self.budgets.values():
            budget.divide(live, background)

    @property
    def limits_s(self) -> Mapping[str, float]:
        """Time limits for one image in seconds, by place."""
        return {}

    def stalled(self, now: float) -> str | None:
        """The reason if the whole stage has stalled, else None. Thread-safe."""
        return None

    def unready(self) -> list[str]:
        """Reasons why the worker is not ready, as sentences. Thread-safe."""
        return []

    def notices(self) -> list[str]:
        """Sentences about delays that leave the worker ready. Thread-safe."""
        return []

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        """The gauges of this stage, except those of budgets and places."""
        return {}


class QueueStage(Stage):
    """A stage with a thread and queues.

    Args:
        lanes: whether there is background work.
    """

    def __init__(self, thread: str, lanes: bool = False) -> None:
        self.thread = thread
        self._lanes = lanes
        self._filled = threading.Condition()
        self._woken = False
        self._queues: list[StageQueue[Any]] = []
        self._work: list[Callable[[], None]] = []
        self._behind: deque[tuple[StageQueue[Any], Callable[[], None]]] = deque()
        """The background queues, which take turns, and their work."""
        self._precedence = Precedence()

    def _queue(
        self, work: Callable[[Sequence[Item]], None], *, most: Callable[[], int] = lambda: MOST_ITEMS
    ) -> StageQueue[Item]:
        """Add a queue. Each step gives `work` up to `most()` items, queue after queue."""
        queue = StageQueue[Item](self._filled)
        self._queues.append(queue)
        self._work.append(partial(_work_off, queue, work, most))
        return queue

    def _lane_queue(
        self,
        work: Callable[[Sequence[Item]], None],
        waits: Callable[[Item], bool],
        *,
        background: Callable[[Sequence[Item]], None] | None = None,
        most: Callable[[], int] = lambda: MOST_ITEMS,
        most_background: Callable[[], int] = lambda: MOST_BACKGROUND,
    ) -> StageQueue[Item]:
        """Add a queue for each lane. A step gives `work` live items, and then a few background ones if no more wait.

        Args:
            waits: whether an item is background.
            background: as `work`, for background items.
        """
        if not self._lanes:
            return self._queue(work, most=most)
        behind = StageQueue[Item](self._filled)
        queue = LaneQueue[Item](self._filled, behind, waits)
        self._queues.append(queue)
        self._work.append(partial(_work_off, queue, work, most))
        self._behind.append((behind, partial(_work_off, behind, background or work, most_background)))
        return queue

    def step(self, wait_s: float = WAIT_S) -> None:
        with self._filled:
            self._filled.wait_for(lambda: self._woken or len(self), wait_s)
            self._woken = False
        self.work()

    def work(self) -> None:
        for work in self._work:
            work()
        waiting = next((each for each in self._behind if len(each[0])), None)
        if waiting is None:
            return
        live = any(map(len, self._queues))
        if live:
            self._precedence.had_turn(background=False, background_waits=True)
        if not live or self._precedence.background_is_next:
            self._precedence.had_turn(background=True, background_waits=True)
            self._behind.remove(waiting)
            self._behind.append(waiting)
            waiting[1]()

    def wake(self) -> None:
        with self._filled:
            self._woken = True
            self._filled.notify()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues) + sum(len(queue) for queue, _ in self._behind)


def _work_off(queue: StageQueue[Item], work: Callable[[Sequence[Item]], None], most: Callable[[], int]) -> None:
    if items := queue.take(most()):
        work(items)
