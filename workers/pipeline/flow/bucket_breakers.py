"""The store's state by bucket: which images wait, and which may send a request.

Each bucket has a breaker. While it is closed, a failed task waits for its own retry time. It opens when different
objects fail in a row, or when the store refuses our credentials. Then one task at a time sends a request (a probe), and
all others wait. Any answer closes the breaker and releases all at once: the outage is over for all.

An object that fails while others are read says nothing about the store: it never opens the breaker nor keeps it open.
Nor does a refused object, because a store that refuses is up; but many refusals in a row may be a policy.
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
"""Most seconds between two probes: a recovered store is found within this time."""

REFUSES_ALL = 10
"""Different objects refused in a row, after which we suspect a policy and blame no object."""

HOLDS_BACK = 100
"""Images waiting for a failing bucket at which their partition admits no new records."""

TELL_AFTER_S = 30.0
"""Seconds after which a failing bucket gets a notice."""


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
    """Number of waiting tasks by assignment."""
    first_until: float = float("inf")
    """Lower bound of the waiting tasks' times."""
    probe: Waiter | None = None
    probed_at: dict[Assignment, float] = field(default_factory=dict)
    """Time of each partition's last probe."""
    asked_at: float = float("-inf")
    """Time of the request for the last object read."""
    opened_at: float = 0.0
    said: str = ""
    """The last failure, as text for people."""
    denied: str = ""
    """The remedy if the store refuses our credentials; else empty."""
    refused: set[str] = field(default_factory=set)
    """Keys first refused after the last object was read, at most `REFUSES_ALL`."""

    def due(self, now: float) -> list[Waiter]:
        if self.breaker.state != "closed":
            return self._probe(now)
        if now < self.first_until:
            return []
        found = [waiter for waiter, wait in self.waiting.items() if wait.until <= now]
        self.first_until = min((wait.until for wait in self.waiting.values() if wait.until > now), default=float("inf"))
        return found

    def _probe(self, now: float) -> list[Waiter]:
        """One of the least-tried tasks of the partition that probed longest ago.

        So one partition's bad objects do not hide a good store from the others.
        """
        if not self.waiting or not self.breaker.may_probe(now):
            return []
        here = min(self.assignments, key=lambda assignment: self.probed_at.get(assignment, float("-inf")))
        self.probed_at = {known: at for known, at in self.probed_at.items() if known.current} | {here: now}
        tries = {waiter: wait.tries for waiter, wait in self.waiting.items() if wait.assignment == here}
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
        self.said, ours = error.detail, error.fault == "access"
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
                self.said = error.detail
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
        """A sentence about a long failure, or empty."""
        if not self.denied and self.breaker.state != "closed" and now - self.opened_at >= TELL_AFTER_S:
            return f"the bucket {self.name!r} has failed for more than {TELL_AFTER_S:g} s: {self.said}"
        if self.refuses_all and self.waiting:
            return f"the bucket {self.name!r} refuses one object after another ({self.said}), so none is blamed"
        return ""


class BucketBreakers(Generic[Waiter]):
    """A breaker and the waiting tasks for each bucket. Thread-safe; monotonic seconds.

    Args:
        first_pause_s, last_pause_s: pause before an open breaker's first probe, and the longest pause between two.
    """

    def __init__(self, first_pause_s: float = 0.2, last_pause_s: float = _LAST_PAUSE_S) -> None:
        self._pauses = (first_pause_s, min(last_pause_s, _LAST_PAUSE_S))
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket[Waiter]] = {}

    # ---- what waits -------------------------------------------------------------------------------------------

    def wait(self, bucket: str, assignment: Assignment, waiter: Waiter, *, until: float, tries: int = 0) -> None:
        """Wait until `until`; with the breaker open, until it closes or the waiter probes.

        Args:
            tries: the waiter's failures so far.
        """
        with self._lock:
            known = self._bucket(bucket)
            known.waiting[waiter] = _Wait(assignment, until, tries)
            known.first_until = min(known.first_until, until)
            known.assignments[assignment] += 1

    def due(self, now: float) -> list[Waiter]:
        """Remove and return the tasks that are due."""
        with self._lock:
            return [known.go(waiter) for known in self._buckets.values() for waiter in known.due(now)]

    def leave_ended(self) -> list[Waiter]:
        """Remove and return the tasks of ended assignments."""
        with self._lock:
            left = [
                known.go(waiter)
                for known in self._buckets.values()
                for waiter in [waiter for waiter, wait in known.waiting.items() if not wait.assignment.current]
            ]
            for known in self._buckets.values():
                if not known.waiting:
                    known.denied = ""
                    known.refused.clear()
            return left

    def holds_back(self, assignment: Assignment) -> bool:
        """Whether many tasks of this assignment wait for a failing bucket.

        A few do not hold back their partition: later events may show that only these objects fail.
        """
        with self._lock:
            return any(
                known.assignments[assignment] >= HOLDS_BACK
                for known in self._buckets.values()
                if known.breaker.state != "closed"
            )

    # ---- requests and their results ---------------------------------------------------------------------------

    def may_ask(self, bucket: str, waiter: Waiter) -> bool:
        """Whether the bucket's breaker is closed, or this task is its probe."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is None or known.breaker.state == "closed" or known.probe is waiter

    def failed(self, bucket: str, key: str, waiter: Waiter, error: Unavailable, now: float) -> None:
        """Note a failed task; a credentials error opens the breaker."""
        with self._lock:
            self._bucket(bucket).failed(key, waiter, error, now)

    def refused(self, bucket: str, key: str, error: Unavailable) -> None:
        """Note that the store refused this object for the first time."""
        with self._lock:
            self._bucket(bucket).was_refused(key, error)

    def read(self, bucket: str, asked_at: float, now: float) -> None:
        """Note that an object requested at `asked_at` was read."""
        with self._lock:
            self._bucket(bucket).read(asked_at, now)

    def answered(self, bucket: str, now: float) -> None:
        """Note an answer of the store, even a refusal."""
        with self._lock:
            self._bucket(bucket).answered(now)

    def left(self, bucket: str, waiter: Waiter) -> None:
        """Forget this task; if it was the probe, another may probe."""
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
        """Whether an object of this bucket, requested after that moment, was read."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is not None and known.asked_at > after

    def refuses_all(self, bucket: str) -> bool:
        """Whether enough objects were refused to suspect a policy.

        Counts different objects since the last object read.
        """
        with self._lock:
            known = self._buckets.get(bucket)
            return known is not None and known.refuses_all

    def waiting(self, bucket: str) -> int:
        with self._lock:
            known = self._buckets.get(bucket)
            return len(known.waiting) if known is not None else 0

    def denials(self) -> list[str]:
        """Remedies for people, for buckets that refuse our credentials."""
        with self._lock:
            return sorted({known.denied for known in self._buckets.values() if known.denied})

    def notices(self, now: float) -> list[str]:
        """Sentences for people: buckets that fail for long or refuse object after object."""
        with self._lock:
            return [line for known in self._buckets.values() if (line := known.notice(now))]

    def breakers(self) -> dict[State, int]:
        """Number of breakers in each state."""
        with self._lock:
            counts = Counter(known.breaker.state for known in self._buckets.values())
        return {state: counts[state] for state in STATES}

    def _bucket(self, name: str) -> _Bucket[Waiter]:
        known = self._buckets.get(name)
        if known is None:
            known = self._buckets[name] = _Bucket(name, Breaker(*self._pauses))
        return known
