"""Equal images in flight are computed once: one leads, the others wait for its answer."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

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
