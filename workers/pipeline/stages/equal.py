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

    A flight is open from its leader's `compute_once` to `share`: meanwhile no equal image is computed. If the leader is
    dropped, the image that has waited longest leads.

    Args:
        key: equal exactly for images with equal results.
        compute: takes the leading task.
        fetch_again: takes a new leader, which released its bytes while it waited.
        shared: takes a follower with the leader's results.
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
        """The flight of each task."""
        self._waiting: dict[Hashable, deque[LoadedTask]] = {}
        """The followers of each open flight."""

    def __len__(self) -> int:
        """Open flights."""
        return len(self._waiting)

    def compute_once(self, loaded: LoadedTask) -> None:
        """Compute the task's results, or wait for an equal task's. One thread."""
        task, flight = loaded.task, self._key(loaded.annotation)
        if task in self._flights:  # the leader, back with bytes that it fetched again
            if self._flights[task] == flight:
                self._compute(loaded)
                return
            task.release("flight")  # the object was overwritten meanwhile: its followers are not equal any more
        self._flights[task] = flight
        task.hold("flight", lambda: self._abandon(task))
        self._progress.move(task, "wait-equal")
        if self._leads(flight):
            self._compute(loaded)
            return
        # A follower waits without its bytes, and must release them before it can be promoted.
        task.release("bytes", "encoded")
        if self._leads(flight, follower=loaded):
            self._fetch_again(task)

    def hand_over(self, leader: Task) -> Hashable | None:
        """Take the flight from its leader for `share`; None: the task is no leader."""
        return self._flights.pop(leader, None)

    def awaited(self, flight: Hashable | None) -> bool:
        """Whether an equal image waits for this flight's leader."""
        with self._lock:
            return bool(self._waiting.get(flight))

    def share(self, flight: Hashable, answer: CompleteTask | Rejected) -> None:
        """Give the leader's results, or its rejection, to all followers."""
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
        """Open the flight; False: it is open already, and the follower waits."""
        with self._lock:
            waiting = self._waiting.get(flight)
            if waiting is None:
                self._waiting[flight] = deque()
            elif follower is not None:
                waiting.append(follower)
            return waiting is None

    def _abandon(self, task: Task) -> None:
        """End the task; if it leads, the longest-waiting follower leads now."""
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
        """The follower that has waited longest; None: the flight is over."""
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
