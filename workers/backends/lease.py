"""When to ask anew for what a service gives for a time: credentials, tokens."""

from __future__ import annotations

from collections.abc import Callable

RENEWED_AFTER = 0.8
"""A lease is renewed after this share of its life: for the rest the service may be away."""
_AGAIN_S = 1.0
"""After a failure the service is not asked again for so long, or all threads would ask, one after the other."""


class Lease:
    """The times of one lease, by a monotonic clock. Not thread-safe.

    Args:
        shortest_s: it is used for so long at least, even if by our clock it has ended.
    """

    def __init__(self, shortest_s: float, monotonic: Callable[[], float]) -> None:
        self._shortest_s = shortest_s
        self._monotonic = monotonic
        self._ask_at = self._valid_until = float("-inf")

    @property
    def due(self) -> bool:
        """Whether to ask for it now."""
        return self._monotonic() >= self._ask_at

    @property
    def valid(self) -> bool:
        return self._monotonic() < self._valid_until

    def granted(self, life_s: float) -> None:
        life_s = max(self._shortest_s, life_s)
        now = self._monotonic()
        self._ask_at, self._valid_until = now + RENEWED_AFTER * life_s, now + life_s

    def failed(self) -> None:
        self._ask_at = self._monotonic() + _AGAIN_S

    def ask_within(self, seconds: float) -> None:
        """Ask no later than in so long."""
        self._ask_at = min(self._ask_at, self._monotonic() + seconds)
