"""The object store as the line knows it: who waits for it, until when, and who may ask it meanwhile.

Each bucket has a breaker. While it is closed, whoever failed waits by itself, for a time of its own. Once different
objects have failed in a row it opens: nobody asks but one probe at a time, and all others wait without a time. Any
answer closes it, and lets everybody go at once: an outage is over for all together.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from workers.pipeline.breaker import STATES, Breaker, State
from workers.vocabulary import Epoch

_log = logging.getLogger(__name__)

Waiter = TypeVar("Waiter", bound=Hashable)

_LAST_PAUSE_S = 5.0
"""The longest time that a store may be back without being asked."""


@dataclass(frozen=True, slots=True)
class _Wait:
    epoch: Epoch
    until: float
    tries: int
    turn: int


@dataclass(slots=True, eq=False)
class _Bucket(Generic[Waiter]):
    name: str
    breaker: Breaker
    waiting: dict[Waiter, _Wait] = field(default_factory=dict)
    first_until: float = float("inf")
    """No later than the time of the first that waits."""
    probe: Waiter | None = None
    read_at: float = float("-inf")

    def due(self, now: float) -> list[Waiter]:
        if self.breaker.state != "closed":
            return self._probe(now)
        if now < self.first_until:
            return []
        found = [waiter for waiter, wait in self.waiting.items() if wait.until <= now]
        self.first_until = min((wait.until for wait in self.waiting.values() if wait.until > now), default=float("inf"))
        return found

    def _probe(self, now: float) -> list[Waiter]:
        """Whoever was tried least, then whoever waits longest: an object that always fails must not be all we ask."""
        if not self.waiting or not self.breaker.may_probe(now):
            return []
        self.probe = min(self.waiting, key=lambda waiter: (self.waiting[waiter].tries, self.waiting[waiter].turn))
        self.breaker.probe(now)
        return [self.probe]


class Neighbours(Generic[Waiter]):
    """See the module. Thread-safe. Times are the clock's monotonic seconds.

    Args:
        first_pause_s, last_pause_s: before the first probe of an open breaker, and at most between two.
    """

    def __init__(self, first_pause_s: float = 0.2, last_pause_s: float = _LAST_PAUSE_S) -> None:
        self._pauses = (first_pause_s, min(last_pause_s, _LAST_PAUSE_S))
        self._lock = threading.Lock()
        self._turns = itertools.count()
        self._buckets: dict[str, _Bucket[Waiter]] = {}
        self._waiting: Counter[Epoch] = Counter()

    # ---- who waits --------------------------------------------------------------------------------------------

    def wait(self, bucket: str, epoch: Epoch, waiter: Waiter, *, until: float, tries: int = 0) -> None:
        """Wait until then; with an open breaker until it closes, or until it is this one's turn to probe.

        Args:
            tries: how often it has failed.
        """
        with self._lock:
            known = self._bucket(bucket)
            known.waiting[waiter] = _Wait(epoch, until, tries, next(self._turns))
            known.first_until = min(known.first_until, until)
            self._waiting[epoch] += 1

    def due(self, now: float) -> list[Waiter]:
        """Those whose time or turn has come; they wait no more."""
        with self._lock:
            return [self._go(known, waiter) for known in self._buckets.values() for waiter in known.due(now)]

    def leave_ended(self) -> list[Waiter]:
        """Those whose epoch has ended; they wait no more."""
        with self._lock:
            return [
                self._go(known, waiter)
                for known in self._buckets.values()
                for waiter in [waiter for waiter, wait in known.waiting.items() if not wait.epoch.current]
            ]

    def holds_back(self, epoch: Epoch) -> bool:
        """Does something of this epoch wait? Then its partition takes no new records."""
        with self._lock:
            return epoch in self._waiting

    # ---- who may ask, and what came of it ---------------------------------------------------------------------

    def may_ask(self, bucket: str, waiter: Waiter) -> bool:
        """Is the bucket's breaker closed, or is this its probe?"""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is None or known.breaker.state == "closed" or known.probe is waiter

    def failed(self, bucket: str, what: Hashable, waiter: Waiter, now: float) -> None:
        """The store failed this one, which asked for the object `what`."""
        with self._lock:
            known = self._bucket(bucket)
            if known.probe is waiter:
                known.probe = None
                known.breaker.probe_failed(now)
            elif known.breaker.failed(what, now):
                _log.warning("the bucket %r fails for one object after another: only one at a time asks it now", bucket)

    def answered(self, bucket: str, now: float, *, read: bool) -> None:
        """The store gave an object of this bucket, or (not `read`) said that it is not there."""
        with self._lock:
            known = self._bucket(bucket)
            if read:
                known.read_at = now
            if known.breaker.succeeded(now):
                known.probe = None
                known.waiting = {
                    waiter: _Wait(wait.epoch, now, wait.tries, wait.turn) for waiter, wait in known.waiting.items()
                }
                known.first_until = now
                _log.info("the bucket %r answers again: %d pictures go on", bucket, len(known.waiting))

    def left(self, bucket: str, waiter: Waiter) -> None:
        """It needs the store no more. A probe that leaves without an answer makes room for another."""
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

    def well_since(self, bucket: str) -> float:
        """When its breaker last closed; what failed before says nothing about an object."""
        with self._lock:
            known = self._buckets.get(bucket)
            return known.breaker.closed_at if known is not None else float("-inf")

    def has_read(self, bucket: str, *, since: float) -> bool:
        """Could an object of this bucket be read since then?"""
        with self._lock:
            known = self._buckets.get(bucket)
            return known is not None and known.read_at >= since

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

    def _go(self, known: _Bucket[Waiter], waiter: Waiter) -> Waiter:
        epoch = known.waiting.pop(waiter).epoch
        self._waiting[epoch] -= 1
        if not self._waiting[epoch]:
            del self._waiting[epoch]
        return waiter
