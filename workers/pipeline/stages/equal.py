"""Equal images in flight are computed once: the first leads, the others wait for its results."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from workers import metrics
from workers.errors import Rejected
from workers.pipeline.flow.single_flight import SingleFlight
from workers.pipeline.progress import TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.task import Task


class EqualImages:
    """Computes one of several equal images and shares its results.

    Args:
        key: equal for two tasks exactly when one's results are the other's.
        compute: takes the task that leads.
        shared: takes one that has the results of the task that led.
    """

    def __init__(
        self,
        key: Callable[[Task], Hashable],
        progress: TaskProgress,
        *,
        endings: Endings,
        compute: Callable[[Task], None],
        shared: Callable[[Task], None],
    ) -> None:
        self._key = key
        self._progress = progress
        self._endings = endings
        self._compute = compute
        self._shared = shared
        self._single_flight: SingleFlight[Task] = SingleFlight()

    def compute_once(self, task: Task) -> None:
        """Compute the task's results, or wait for an equal task that does."""
        if task.flight is not None:  # it leads already, and had to fetch its bytes again
            if task.flight == self._key(task):
                self._compute(task)
                return
            task.release("flight")  # the object was overwritten meanwhile: those that waited are not its equals
        task.flight = self._key(task)
        task.hold("flight", lambda: self._abandon(task))
        self._progress.move(task, "wait-equal")
        if task.flight in self._single_flight:
            # A follower waits without its bytes, and must let go of them before anyone can promote it.
            task.release("bytes", "encoded")
        if self._single_flight.join(task.flight, task):
            self._compute(task)

    def hand_over(self, leader: Task) -> Hashable | None:
        """Take the flight from its leader, so that `share` ends it; None: it leads none."""
        flight, leader.flight = leader.flight, None
        return flight

    def awaited(self, flight: Hashable | None) -> bool:
        """Whether an equal image waits for what this flight's leader computes."""
        return flight is not None and self._single_flight.waiting(flight) > 0

    def share(self, leader: Task, flight: Hashable, verdict: Rejected | None) -> None:
        """Give the leader's results to all that wait for them; a verdict instead rejects them too."""
        for task in self._single_flight.land(flight):
            metrics.COALESCED.add()
            task.flight = None
            if verdict is not None:
                self._endings.reject(task, verdict)
                continue
            task.share_results_of(leader)
            self._shared(task)

    def _abandon(self, task: Task) -> None:
        """The task ends: if it still leads, the one that has waited longest leads now."""
        if task.flight is None:
            return
        key, task.flight = task.flight, None
        while (follower := self._single_flight.abandon(key)) is not None:
            if follower.current:
                self._compute(follower)
                return
            follower.flight = None
            self._endings.drop(follower)
