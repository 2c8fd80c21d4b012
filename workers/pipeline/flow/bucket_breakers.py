"""The object store's state by bucket: which images wait for it, until when, and which may ask it meanwhile.

Each bucket has a breaker. While it is closed, a task that failed waits by itself, for a time of its own. Once different
objects have failed in a row it opens: one task at a time asks (a probe), and all others wait without a time. Any
answer closes it and lets all go at once: an outage is over for all together.

An object that fails while others are read says nothing about the store: it never opens the breaker nor keeps it open.
To tell, a few objects that were read are remembered as references, and read again in case of doubt.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.printable import counted
from workers.breaker import STATES, Breaker, State
from workers.types import Assignment, Job

_log = logging.getLogger(__name__)

Waiter = TypeVar("Waiter", bound=Hashable)

_LAST_PAUSE_S = 5.0
"""The longest time that a store may be back without being asked."""

_REFERENCES = 3
"""Objects of a bucket that are remembered as readable: one may be removed or forbidden since."""


@dataclass(frozen=True, slots=True)
class _Wait:
    assignment: Assignment
    until: float
    tries: int


@dataclass(slots=True, eq=False)
class _Bucket(Generic[Waiter]):
    name: str
    breaker: Breaker
    waiting: dict[Waiter, _Wait] = field(default_factory=dict)
    assignments: Counter[Assignment] = field(default_factory=Counter)
    """How many tasks wait by assignment."""
    first_until: float = float("inf")
    """No later than the time of the first that waits."""
    probe: Waiter | None = None
    asked_at: float = float("-inf")
    """When the last of the objects was asked for that were read."""
    references: deque[Job] = field(default_factory=lambda: deque(maxlen=_REFERENCES))
    reference_failed: bool = False
    """The last one that was read again could not be."""
    refusal: str = ""
    """What it says to every request; empty: it does not."""

    def due(self, now: float) -> list[Waiter]:
        if self.breaker.state != "closed":
            return self._probe(now)
        if now < self.first_until:
            return []
        found = [waiter for waiter, wait in self.waiting.items() if wait.until <= now]
        self.first_until = min((wait.until for wait in self.waiting.values() if wait.until > now), default=float("inf"))
        return found

    def _probe(self, now: float) -> list[Waiter]:
        """One of those that were tried least. By chance, so that no order of arrival puts bad objects first."""
        if not self.waiting or not self.breaker.may_probe(now):
            return []
        least = min(wait.tries for wait in self.waiting.values())
        self.probe = random.choice([waiter for waiter, wait in self.waiting.items() if wait.tries == least])
        self.breaker.probe(now)
        return [self.probe]

    def go(self, waiter: Waiter) -> Waiter:
        assignment = self.waiting.pop(waiter).assignment
        self.assignments[assignment] -= 1
        if not self.assignments[assignment]:
            del self.assignments[assignment]
        return waiter

    def failed(self, what: Hashable, waiter: Waiter, now: float) -> None:
        if self.probe is waiter:
            self.probe = None
            self.breaker.probe_failed(now)
        elif self.breaker.failed(what, now):
            _log.warning("the bucket %r fails for one object after another: only one at a time asks it now", self.name)

    def answered(self, now: float) -> None:
        self.refusal = ""
        if self.breaker.succeeded(now):
            self.probe = None
            self.waiting = {waiter: _Wait(wait.assignment, now, wait.tries) for waiter, wait in self.waiting.items()}
            self.first_until = now
            _log.info("the bucket %r answers again: %s may go on", self.name, counted(len(self.waiting), "image"))


class BucketBreakers(Generic[Waiter]):
    """Which bucket fails, and which tasks wait for it. Thread-safe. Times are the clock's monotonic seconds.

    Args:
        first_pause_s, last_pause_s: before the first probe of an open breaker, and at most between two.
    """

    def __init__(self, first_pause_s: float = 0.2, last_pause_s: float = _LAST_PAUSE_S) -> None:
        self._pauses = (first_pause_s, min(last_pause_s, _LAST_PAUSE_S))
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket[Waiter]] = {}

    # ---- what waits -------------------------------------------------------------------------------------------

    def wait(self, bucket: str, assignment: Assignment, waiter: Waiter, *, until: float, tries: int = 0) -> None:
        """Wait until then; with an open breaker until it closes, or until it is this one's turn to probe.

        Args:
            tries: how often it has failed.
        """
        with self._lock:
            known = self._bucket(bucket)
            known.waiting[waiter] = _Wait(assignment, until, tries)
            known.first_until = min(known.first_until, until)
            known.assignments[assignment] += 1

    def due(self, now: float) -> list[Waiter]:
        """The tasks whose time or turn has come; they wait no more."""
        with self._lock:
            return [known.go(waiter) for known in self._buckets.values() for waiter in known.due(now)]

    def leave_ended(self) -> list[Waiter]:
        """The tasks whose assignment has ended; they wait no more."""
        with self._lock:
            left = [
                known.go(waiter)
                for known in self._buckets.values()
                for waiter in [waiter for waiter, wait in known.waiting.items() if not wait.assignment.current]
            ]
            for known in self._buckets.values():
                if not known.waiting:
                    known.refusal = ""
            return left

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether a task of this assignment waits for a bucket that fails: then its partition takes no new records.

        What waits because of itself alone holds nothing back: the events after it tell that it is to blame.
        """
        with self._lock:
            return any(
                assignment in known.assignments for known in self._buckets.values() if known.breaker.state != "closed"
            )

    # ---- what may ask, and what came of it --------------------------------------------------------------------

    def may_ask(self, bucket: str, waiter: Waiter) -> bool:
        """Whether the bucket's breaker is closed, or this task is its probe."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is None or known.breaker.state == "closed" or known.probe is waiter

    def failed(self, bucket: str, what: Hashable, waiter: Waiter, now: float) -> None:
        """The store failed this task, which asked for the object `what`."""
        with self._lock:
            self._bucket(bucket).failed(what, waiter, now)

    def read(self, bucket: str, job: Job | None, asked_at: float, now: float) -> None:
        """The store gave an object that it was asked for at that time. With a job it becomes a reference."""
        with self._lock:
            known = self._bucket(bucket)
            known.asked_at = max(known.asked_at, asked_at)
            if job is not None:
                _forget(known.references, job)
                known.references.append(job)
            known.answered(now)

    def answered(self, bucket: str, now: float) -> None:
        """The store answered about an object: that it is not there, or what is wrong with it."""
        with self._lock:
            self._bucket(bucket).answered(now)

    def refused(self, bucket: str, says: str) -> None:
        """The store refuses us this bucket, until `read` or `answered` says otherwise."""
        with self._lock:
            self._bucket(bucket).refusal = says

    def left(self, bucket: str, waiter: Waiter) -> None:
        """This task needs the store no more. A probe that leaves without an answer makes room for another."""
        with self._lock:
            known = self._buckets.get(bucket)
            if known is not None and known.probe is waiter:
                known.probe = None
                known.breaker.probe_lost()

    # ---- what is known of a bucket ----------------------------------------------------------------------------

    def closed(self, bucket: str) -> bool:
        with self._lock:
            known = self._buckets.get(bucket)
            return known is None or known.breaker.state == "closed"

    def has_read(self, bucket: str, *, after: float) -> bool:
        """Whether an object of this bucket was asked for after that moment, and given."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is not None and known.asked_at > after

    def recovered_at(self, bucket: str) -> float:
        """When its last outage ended. What failed before says nothing about an object."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known.breaker.recovered_at if known is not None else float("-inf")

    def reference(self, bucket: str, key: str) -> Job | None:
        """An object of the bucket that could be read, other than `key`; each call names another.

        None: there is none, or the last one could not be read. So references that have all become unreadable since
        never keep what waits from being asked for itself.
        """
        with self._lock:
            known = self._bucket(bucket)
            found = next((job for job in known.references if job.event.key != key), None)
            if found is None or known.reference_failed:
                known.reference_failed = False
                return None
            known.references.remove(found)
            known.references.append(found)
            return found

    def reference_failed(self, bucket: str, reference: Job, waiter: Waiter, now: float) -> None:
        """A reference could not be read, for a reason that may be the store's."""
        with self._lock:
            known = self._bucket(bucket)
            known.reference_failed = True
            known.failed(reference.event.key, waiter, now)

    def forget(self, bucket: str, reference: Job) -> None:
        """Forget a reference that can't be read any more, for a reason of its own."""
        with self._lock:
            _forget(self._bucket(bucket).references, reference)

    def refusals(self) -> list[str]:
        """What the buckets say that refuse us, for people."""
        with self._lock:
            return sorted({known.refusal for known in self._buckets.values() if known.refusal})

    def breakers(self) -> dict[State, int]:
        """How many buckets' breakers are in each state."""
        with self._lock:
            counts = Counter(known.breaker.state for known in self._buckets.values())
        return {state: counts[state] for state in STATES}

    def _bucket(self, name: str) -> _Bucket[Waiter]:
        known = self._buckets.get(name)
        if known is None:
            known = self._buckets[name] = _Bucket(name, Breaker(*self._pauses))
        return known


def _forget(references: deque[Job], job: Job) -> None:
    for known in [known for known in references if known.event.key == job.event.key]:
        references.remove(known)
