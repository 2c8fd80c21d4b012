"""Equal images in flight are computed once: the first leads, the others wait for its results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Generic, TypeVar

from workers import metrics
from workers.errors import Rejected
from workers.pipeline.annotation import Annotation
from workers.pipeline.progress import TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.task import CompleteTask, LoadedTask, Task

Follower = TypeVar("Follower")


class SingleFlight(Generic[Follower]):
    """Which task computes an answer, and which tasks wait for it. Thread-safe.

    A flight stays open from the leader's `join` to `land`, so no other computes its answer again in between. When the
    leader is dropped, `abandon` promotes the follower that has waited longest.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._single_flight: dict[Hashable, list[Follower]] = {}

    def join(self, key: Hashable, follower: Follower) -> bool:
        """Whether the caller is the first to compute this, and leads; else it waits for `land` or `abandon`."""
        with self._lock:
            waiting = self._single_flight.get(key)
            if waiting is None:
                self._single_flight[key] = []
                return True
            waiting.append(follower)
            return False

    def land(self, key: Hashable) -> list[Follower]:
        """End a flight whose answer is known, and return its followers.

        From now on a lookup finds the answer.
        """
        with self._lock:
            return self._single_flight.pop(key, [])

    def abandon(self, key: Hashable) -> Follower | None:
        """The leader ends without an answer. The one returned leads now; None: none waited, the flight is over."""
        with self._lock:
            waiting = self._single_flight.get(key)
            if waiting:
                return waiting.pop(0)
            self._single_flight.pop(key, None)
            return None

    def waiting(self, key: Hashable) -> int:
        """How many tasks wait for this answer."""
        with self._lock:
            return len(self._single_flight.get(key, ()))

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._single_flight

    def __len__(self) -> int:
        with self._lock:
            return len(self._single_flight)


class EqualImages:
    """Computes one of several equal images and shares its results.

    Args:
        key: equal for two annotation exactly when one's results are the other's.
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
        self._single_flight: SingleFlight[LoadedTask] = SingleFlight()
        self._flights: dict[Task, Hashable] = {}
        """What each task computes, or waits for."""

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
        if flight not in self._single_flight:
            self._single_flight.join(flight, loaded)
            self._compute(loaded)
            return
        # A follower waits without its bytes, and must let go of them before anyone can promote it.
        task.release("bytes", "encoded")
        if self._single_flight.join(flight, loaded):
            self._fetch_again(task)

    def hand_over(self, leader: Task) -> Hashable | None:
        """Take the flight from its leader, so that `share` ends it; None: it leads none."""
        return self._flights.pop(leader, None)

    def awaited(self, flight: Hashable | None) -> bool:
        """Whether an equal image waits for what this flight's leader computes."""
        return flight is not None and self._single_flight.waiting(flight) > 0

    def share(self, flight: Hashable, answer: CompleteTask | Rejected) -> None:
        """Give the leader's results to all that wait for them; a verdict instead rejects them too."""
        for waited in self._single_flight.land(flight):
            metrics.COALESCED.add()
            self._flights.pop(waited.task, None)
            if isinstance(answer, Rejected):
                self._endings.reject(waited.task, answer)
            else:
                self._shared(_with_the_results_of(answer, waited))

    def _abandon(self, task: Task) -> None:
        """The task ends: if it still leads, the one that has waited longest leads now."""
        flight = self._flights.pop(task, None)
        if flight is None:
            return
        while (follower := self._single_flight.abandon(flight)) is not None:
            if follower.task.current:
                self._fetch_again(follower.task)
                return
            self._flights.pop(follower.task, None)
            self._endings.drop(follower.task)


def _with_the_results_of(leader: CompleteTask, own: LoadedTask) -> CompleteTask:
    """The waiting task, complete with the leader's results."""
    fetched, results = own.fetched, leader.annotation.results
    own.annotation.results, own.annotation.hits = dict(results), set(results)
    facts = replace(leader.facts, etag=fetched.etag, version_id=fetched.version_id, last_modified=fetched.last_modified)
    return CompleteTask(own.task, own.annotation, facts, fetched.date)
