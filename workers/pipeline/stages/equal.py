"""Equal images in flight are computed once: the first leads, the others wait for its results."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import replace

from workers import metrics
from workers.errors import Rejected
from workers.pipeline.annotation import Annotation
from workers.pipeline.progress import TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.task import CompleteTask, LoadedTask, Task


class EqualImages:
    """Computes one of several equal images and shares its results. Thread-safe.

    A flight is open from its leader's `compute_once` to `share`, so no other image is computed for it in between. When
    the leader is dropped, the one that has waited longest leads.

    Args:
        key: equal for two images exactly when one's results are the other's.
        compute: takes the task that leads.
        fetch_again: takes one that leads now, and let go of its bytes while it waited.
        shared: takes one that has the results of the task that led.
    """

    def __init__(
        self,
        key: Callable[[Annotation], Hashable],
        progress: TaskProgress,
        *,
        endings: Endings,
        compute: Callable[[LoadedTask], None],
        fetch_again: Callable[[Task], None],
        shared: Callable[[CompleteTask], None],
    ) -> None:
        self._key = key
        self._progress = progress
        self._endings = endings
        self._compute = compute
        self._fetch_again = fetch_again
        self._shared = shared
        self._lock = threading.Lock()
        self._flights: dict[Task, Hashable] = {}
        """What each task computes, or waits for."""
        self._waiting: dict[Hashable, deque[LoadedTask]] = {}
        """The followers of each open flight."""

    def __len__(self) -> int:
        """Open flights."""
        return len(self._waiting)

    def compute_once(self, loaded: LoadedTask) -> None:
        """Compute the task's results, or wait for an equal task that does. On one thread."""
        task, flight = loaded.task, self._key(loaded.annotation)
        if task in self._flights:  # it leads already, and had to fetch its bytes again
            if self._flights[task] == flight:
                self._compute(loaded)
                return
            task.release("flight")  # the object was overwritten meanwhile: those that waited are not its equals
        self._flights[task] = flight
        task.hold("flight", lambda: self._abandon(task))
        self._progress.move(task, "wait-equal")
        if self._leads(flight):
            self._compute(loaded)
            return
        # A follower waits without its bytes, and must let go of them before anyone can promote it.
        task.release("bytes", "encoded")
        if self._leads(flight, follower=loaded):
            self._fetch_again(task)

    def hand_over(self, leader: Task) -> Hashable | None:
        """Take the flight from its leader, so that `share` ends it; None: it leads none."""
        return self._flights.pop(leader, None)

    def awaited(self, flight: Hashable | None) -> bool:
        """Whether an equal image waits for what this flight's leader computes."""
        with self._lock:
            return bool(self._waiting.get(flight))

    def share(self, flight: Hashable, answer: CompleteTask | Rejected) -> None:
        """Give the leader's results to all that wait for them; a verdict instead rejects them too."""
        with self._lock:
            landed = self._waiting.pop(flight, ())
        for waited in landed:
            metrics.COALESCED.add()
            self._flights.pop(waited.task, None)
            if isinstance(answer, Rejected):
                self._endings.reject(waited.task, answer)
            else:
                self._shared(_with_the_results_of(answer, waited))

    def _leads(self, flight: Hashable, follower: LoadedTask | None = None) -> bool:
        """Open the flight; False: it is open, and the follower waits for it."""
        with self._lock:
            waiting = self._waiting.get(flight)
            if waiting is None:
                self._waiting[flight] = deque()
            elif follower is not None:
                waiting.append(follower)
            return waiting is None

    def _abandon(self, task: Task) -> None:
        """The task ends: if it still leads, the one that has waited longest leads now."""
        flight = self._flights.pop(task, None)
        if flight is None:
            return
        while (follower := self._next_leader(flight)) is not None:
            if follower.task.current:
                self._fetch_again(follower.task)
                return
            self._flights.pop(follower.task, None)
            self._endings.drop(follower.task)

    def _next_leader(self, flight: Hashable) -> LoadedTask | None:
        """The one that has waited longest; None: none waits, and the flight is over."""
        with self._lock:
            if waiting := self._waiting.get(flight):
                return waiting.popleft()
            self._waiting.pop(flight, None)
            return None


def _with_the_results_of(leader: CompleteTask, own: LoadedTask) -> CompleteTask:
    """The waiting task, complete with the leader's results."""
    fetched, results = own.fetched, leader.annotation.results
    own.annotation.results, own.annotation.hits = dict(results), set(results)
    facts = replace(leader.facts, etag=fetched.etag, version_id=fetched.version_id, last_modified=fetched.last_modified)
    return CompleteTask(own.task, own.annotation, facts, fetched.date)
