"""Circuit breakers: one for each bucket, with the tasks that wait for the bucket.

While a breaker is closed, a failed task waits only for its own retry. The breaker opens when three different objects
fail in a row, or when the store rejects our credentials. Then all tasks of the bucket wait, and one task at a time
sends a request as a probe. Any answer from the store closes the breaker, and all tasks continue.

A refused object does not open the breaker, because a store that refuses is up. Many refusals in a row can come from a
policy of the bucket, so then no object is blamed.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.printable import counted
from workers.breaker import STATES, Breaker, State
from workers.errors import Unavailable
from workers.types import Assignment

_log = logging.getLogger(__name__)

Waiter = TypeVar("Waiter", bound=Hashable)

_LAST_PAUSE_S = 5.0
"""Longest pause between two probes, in seconds."""

REFUSES_ALL = 10
"""After this many refused objects in a row, no object is blamed."""

HOLDS_BACK = 100
"""If this many images of a partition wait for a failing bucket, none of its records is admitted."""

TELL_AFTER_S = 30.0
"""After this many seconds of failures, `notices` names the bucket."""


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
    """The number of waiting tasks by assignment."""
    first_until: float = float("inf")
    """A lower bound of `until` of all waiting tasks."""
    probe: Waiter | None = None
    probed_at: dict[Assignment, float] = field(default_factory=dict)
    """Time of each partition's last probe."""
    asked_at: float = float("-inf")
    """Request time of the last object that was read."""
    opened_at: float = 0.0
    last_error: str = ""
    """Text of the last failure."""
    denied: str = ""
    """If the store rejects our credentials, the remedy; else empty."""
    refused: set[str] = field(default_factory=set)
    """Keys of refused objects since the last object was read; at most `REFUSES_ALL`."""

    def due(self, now: float) -> list[Waiter]:
        if self.breaker.state != "closed":
            return self._probe(now)
        if now < self.first_until:
            return []
        found = [waiter for waiter, wait in self.waiting.items() if wait.until <= now]
        self.first_until = min((wait.until for wait in self.waiting.values() if wait.until > now), default=float("inf"))
        return found

    def _probe(self, now: float) -> list[Waiter]:
        """Choose the next probe, or none.

        Partitions take turns. Within a partition, a task with the fewest attempts is chosen. So bad objects can't hide
        that the store is up again.
        """
        if not self.waiting or not self.breaker.may_probe(now):
            return []
        next_partition = min(self.assignments, key=lambda assignment: self.probed_at.get(assignment, float("-inf")))
        self.probed_at = {known: at for known, at in self.probed_at.items() if known.current} | {next_partition: now}
        tries = {waiter: wait.tries for waiter, wait in self.waiting.items() if wait.assignment == next_partition}
        least = min(tries.values())
        self.probe = random.choice([waiter for waiter, count in tries.items() if count == least])
        self.breaker.probe(now)
        return [self.probe]

    def go(self, waiter: Waiter) -> Waiter:
        assignment = self.waiting.pop(waiter).assignment
        self.assignments[assignment] -= 1
        if not self.assignments[assignment]:
            del self.assignments[assignment]
        return waiter

    def failed(self, key: str, waiter: Waiter, error: Unavailable, now: float) -> None:
        self.last_error, ours = error.detail, error.fault == "access"
        if ours and not self.denied:
            self.denied = error.advice or error.detail
            _log.warning("the object store denies the bucket %r (%s): %s", self.name, error.detail, self.denied)
        if self.probe is waiter:
            self.probe = None
            self.breaker.probe_failed(now)
        elif self.breaker.failed(key, now, at_once=ours):
            self.opened_at = now
            if not ours:
                _log.warning(
                    "the bucket %r fails for one object after another: trying only one object at a time", self.name
                )

    def was_refused(self, key: str, error: Unavailable) -> None:
        if len(self.refused) < REFUSES_ALL:
            self.refused.add(key)
            if self.refuses_all:
                self.last_error = error.detail
                _log.warning(
                    "the bucket %r refuses one object after another (%s), so no object is blamed: %s",
                    self.name,
                    error.detail,
                    error.advice or "check whether one of them can be read",
                )

    @property
    def refuses_all(self) -> bool:
        return len(self.refused) >= REFUSES_ALL

    def answered(self, now: float) -> None:
        self.denied = ""
        if self.breaker.succeeded(now):
            self.probe = None
            self._release(now)

    def read(self, asked_at: float, now: float) -> None:
        self.asked_at = max(self.asked_at, asked_at)
        self.answered(now)
        if self.refuses_all:
            self._release(now)
        self.refused.clear()

    def _release(self, now: float) -> None:
        self.waiting = {waiter: _Wait(wait.assignment, now, wait.tries) for waiter, wait in self.waiting.items()}
        self.first_until = now
        _log.info("the bucket %r answers again: %s resume", self.name, counted(len(self.waiting), "image"))

    def notice(self, now: float) -> str:
        if not self.denied and self.breaker.state != "closed" and now - self.opened_at >= TELL_AFTER_S:
            return f"the bucket {self.name!r} has failed for more than {TELL_AFTER_S:g} s: {self.last_error}"
        if self.refuses_all and self.waiting:
            return f"the bucket {self.name!r} refuses one object after another ({self.last_error}), so none is blamed"
        return ""


class BucketBreakers(Generic[Waiter]):
    """The breaker and the waiting tasks of each bucket. Thread-safe. Times are monotonic seconds."""

    def __init__(self, first_pause_s: float = 0.2, last_pause_s: float = _LAST_PAUSE_S) -> None:
        self._pauses = (first_pause_s, min(last_pause_s, _LAST_PAUSE_S))
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket[Waiter]] = {}

    def wait(self, bucket: str, assignment: Assignment, waiter: Waiter, *, until: float, tries: int = 0) -> None:
        """Let a task wait until `until`, or longer for an open breaker."""
        with self._lock:
            found = self._bucket(bucket)
            found.waiting[waiter] = _Wait(assignment, until, tries)
            found.first_until = min(found.first_until, until)
            found.assignments[assignment] += 1

    def due(self, now: float) -> list[Waiter]:
        """Remove and return the tasks that may continue."""
        with self._lock:
            return [each.go(waiter) for each in self._buckets.values() for waiter in each.due(now)]

    def leave_ended(self) -> list[Waiter]:
        """Remove and return the tasks of ended assignments."""
        with self._lock:
            left = [
                each.go(waiter)
                for each in self._buckets.values()
                for waiter in [waiter for waiter, wait in each.waiting.items() if not wait.assignment.current]
            ]
            for each in self._buckets.values():
                if not each.waiting:
                    each.denied = ""
                    each.refused.clear()
            return left

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether many tasks of this assignment wait for a failing bucket.

        A few waiting tasks do not count: later events can show that only these objects fail.
        """
        with self._lock:
            return any(
                each.assignments[assignment] >= HOLDS_BACK
                for each in self._buckets.values()
                if each.breaker.state != "closed"
            )

    def may_ask(self, bucket: str, waiter: Waiter | None = None) -> bool:
        """Whether the bucket's breaker is closed, or this task is its probe."""
        with self._lock:
            found = self._buckets.get(bucket)
            return found is None or found.breaker.state == "closed" or (found.probe is waiter is not None)

    def failed(self, bucket: str, key: str, waiter: Waiter, error: Unavailable, now: float) -> None:
        """Note a failure; rejected credentials open the breaker at once."""
        with self._lock:
            self._bucket(bucket).failed(key, waiter, error, now)

    def refused(self, bucket: str, key: str, error: Unavailable) -> None:
        """Note that the store refused this object for the first time."""
        with self._lock:
            self._bucket(bucket).was_refused(key, error)

    def read(self, bucket: str, asked_at: float, now: float) -> None:
        """Note that an object was read; it was requested at `asked_at`."""
        with self._lock:
            self._bucket(bucket).read(asked_at, now)

    def answered(self, bucket: str, now: float) -> None:
        """Note any answer from the store, also a refusal."""
        with self._lock:
            self._bucket(bucket).answered(now)

    def left(self, bucket: str, waiter: Waiter) -> None:
        """Forget an ended task; if it was the probe, another task may probe."""
        with self._lock:
            found = self._buckets.get(bucket)
            if found is not None and found.probe is waiter:
                found.probe = None
                found.breaker.probe_lost()

    def has_read(self, bucket: str, *, after: float) -> bool:
        """Whether an object of this bucket, requested after that moment, was read."""
        with self._lock:
            found = self._buckets.get(bucket)
            return found is not None and found.asked_at > after

    def refuses_all(self, bucket: str) -> bool:
        """Whether the bucket refused `REFUSES_ALL` objects since the last object was read."""
        with self._lock:
            found = self._buckets.get(bucket)
            return found is not None and found.refuses_all

    def waiting(self, bucket: str) -> int:
        with self._lock:
            found = self._buckets.get(bucket)
            return len(found.waiting) if found is not None else 0

    def denials(self) -> list[str]:
        """Remedies for people, for buckets that refuse our credentials."""
        with self._lock:
            return sorted({each.denied for each in self._buckets.values() if each.denied})

    def notices(self, now: float) -> list[str]:
        """Sentences for people: buckets that fail for long or refuse object after object."""
        with self._lock:
            return [line for each in self._buckets.values() if (line := each.notice(now))]

    def breakers(self) -> dict[State, int]:
        with self._lock:
            counts = Counter(each.breaker.state for each in self._buckets.values())
        return {state: counts[state] for state in STATES}

    def _bucket(self, name: str) -> _Bucket[Waiter]:
        found = self._buckets.get(name)
        if found is None:
            found = self._buckets[name] = _Bucket(name, Breaker(*self._pauses))
        return found
