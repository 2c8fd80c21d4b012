"""Shares results between equal images."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from workers import metrics
from workers.errors import Rejected
from workers.pipeline.annotation import Annotation
from workers.pipeline.progress import TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.task import CompleteTask, LoadedTask, Task


@dataclass(eq=False)
class EqualImages:
    """Computes equal images only once. Thread-safe.

    Equal images form a *flight*. The first image is the *leader*: the later stages compute it. The other images are
    *followers*: they wait until `share`. If the leader is dropped, the oldest follower becomes the leader. Each lane
    has flights of its own, because a live image would wait for long behind a background one.

    Args:
        key: returns the flight's key; images with the same key have the same results.
        fetch_again: continues with a new leader, which released its bytes while it waited.
        shared: continues with a follower that has the leader's results.
    """

    key: Callable[[Annotation], Hashable]
    progress: TaskProgress
    endings: Endings
    compute: Callable[[LoadedTask], None]
    fetch_again: Callable[[Task], None]
    shared: Callable[[CompleteTask], None]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Task, Hashable] = {}
        """The flight of each task."""
        self._waiting: dict[Hashable, deque[LoadedTask]] = {}
        """The followers of each open flight."""

    def __len__(self) -> int:
        """Open flights."""
        return len(self._waiting)

    def compute_once(self, loaded: LoadedTask) -> None:
        """Compute the image, or wait for an equal image. Runs on the lookup thread."""
        task, flight = loaded.task, (self.key(loaded.annotation), loaded.task.background)
        if task in self._flights:  # the leader, back with bytes that it fetched again
            if self._flights[task] == flight:
                self.compute(loaded)
                return
            task.release("flight")  # the object has changed: its followers are no longer equal
        self._flights[task] = flight
        task.hold("flight", lambda: self._abandon(task))
        self.progress.move(task, "wait-equal")
        if self._leads(flight):
            self.compute(loaded)
            return
        # A follower waits without its bytes, and must release them before it can be promoted.
        task.release("bytes", "encoded")
        if self._leads(flight, follower=loaded):
            self.fetch_again(task)

    def hand_over(self, leader: Task) -> Hashable | None:
        """End the task's lead and return its flight for `share`, or None."""
        return self._flights.pop(leader, None)

    def awaited(self, flight: Hashable | None) -> bool:
        with self._lock:
            return bool(self._waiting.get(flight))

    def share(self, flight: Hashable, answer: CompleteTask | Rejected) -> None:
        """End a flight: its followers get the leader's results or rejection."""
        with self._lock:
            followers = self._waiting.pop(flight, ())
        for follower in followers:
            metrics.COALESCED.add()
            self._flights.pop(follower.task, None)
            if isinstance(answer, Rejected):
                self.endings.reject(follower.task, answer)
            elif not follower.fetched.fits(answer.facts):
                self.endings.read_original(follower.task, "shape")
            else:
                self.shared(_with_the_results_of(answer, follower))

    def _leads(self, flight: Hashable, follower: LoadedTask | None = None) -> bool:
        """Open a flight; False: the flight is open, and the follower waits."""
        with self._lock:
            waiting = self._waiting.get(flight)
            if waiting is None:
                self._waiting[flight] = deque()
            elif follower is not None:
                waiting.append(follower)
            return waiting is None

    def _abandon(self, task: Task) -> None:
        """Remove an ended task; after a leader, the oldest follower leads."""
        flight = self._flights.pop(task, None)
        if flight is None:
            return
        while (follower := self._next_leader(flight)) is not None:
            if follower.task.current:
                self.fetch_again(follower.task)
                return
            self._flights.pop(follower.task, None)
            self.endings.drop(follower.task)

    def _next_leader(self, flight: Hashable) -> LoadedTask | None:
        """The oldest follower; None: the flight ends."""
        with self._lock:
            if waiting := self._waiting.get(flight):
                return waiting.popleft()
            self._waiting.pop(flight, None)
            return None


def _with_the_results_of(leader: CompleteTask, own: LoadedTask) -> CompleteTask:
    """The follower as a complete task, with the leader's results."""
    fetched, results = own.fetched, leader.annotation.results
    own.annotation.results, own.annotation.hits = dict(results), set(results)
    facts = replace(
        leader.facts,
        etag=fetched.etag,
        version_id=fetched.version_id,
        last_modified=fetched.last_modified,
        original=fetched.original,
    )
    index = own.task.event.index
    unanswered = tuple([failure.model_copy(update={"index": index}) for failure in leader.unanswered])
    return CompleteTask(own.task, own.annotation, facts, fetched.date, unanswered=unanswered)
