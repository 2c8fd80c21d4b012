"""What the worker knows of a stage: its thread and queue, its share of the bounds, and when it counts as stalled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from workers.pipeline.flow.budget import Budget
from workers.pipeline.flow.queue import StageQueue
from workers.ports import Clock

Item = TypeVar("Item")

_WAIT_S = 0.2


class Stage(Protocol):
    """One step of the pipeline."""

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """What bounds its memory, by the name that metrics show."""
        ...

    def divide(self, partitions: int) -> None:
        """Share its bounds among so many partitions."""
        ...

    @property
    def limits_s(self) -> Mapping[str, float]:
        """How long it may work on one image, by the name of the work (`progress.WORKING`)."""
        ...

    def stalled(self, now: float) -> str | None:
        """Why it stands still as a whole, for people; None: it does not. Any thread."""
        ...


class QueueStage(Generic[Item]):
    """A stage with a thread of its own, which works off a queue.

    Args:
        thread: the thread's name.
        work: called with all that is ready, up to `most()`.
        anyway: whether there is work although nothing came.
        limits_s: see `Stage`.
    """

    def __init__(
        self,
        thread: str,
        work: Callable[[Sequence[Item]], None],
        *,
        most: Callable[[], int] = lambda: 256,
        anyway: Callable[[], bool] = lambda: False,
        limits_s: Mapping[str, float] | None = None,
    ) -> None:
        self.thread = thread
        self.queue: StageQueue[Item] = StageQueue()
        self._work = work
        self._most = most
        self._anyway = anyway
        self._limits_s = limits_s or {}

    def step(self) -> None:
        """Work on what is ready; waits a moment for it. The stage's own thread."""
        items = self.queue.take(self._most(), _WAIT_S)
        if items or self._anyway():
            self._work(items)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        return {}

    def divide(self, partitions: int) -> None:
        """What is in the queue is bounded by the stages before."""

    @property
    def limits_s(self) -> Mapping[str, float]:
        return self._limits_s

    def stalled(self, now: float) -> str | None:
        return None


class DeviceStage(QueueStage[Item]):
    """The stage that has the device. A batch may take max(15 s, 5 × the slowest so far), one image no less.

    Args:
        stall_timeout_s: what one image may take at least.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], None],
        clock: Clock,
        stall_timeout_s: float,
        *,
        most: Callable[[], int],
    ) -> None:
        super().__init__("device", self._timed, most=most)
        self._run = work
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._since: float | None = None
        self._slowest_s = 0.0

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"annotate": max(self._stall_timeout_s, self._batch_limit_s)}

    def stalled(self, now: float) -> str | None:
        since = self._since
        if since is None or now - since <= self._batch_limit_s:
            return None
        return f"the device has worked on one batch for {now - since:.0f} s"

    @property
    def _batch_limit_s(self) -> float:
        return max(15.0, 5 * self._slowest_s)

    def _timed(self, items: Sequence[Item]) -> None:
        started = self._since = self._clock.monotonic()
        self._run(items)
        self._slowest_s = max(self._slowest_s, self._clock.monotonic() - started)
        self._since = None
