"""The rate of commands that send many events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from workers.errors import Misconfigured

_SLOWEST = 0.001
"""Least events a second: no system sleeps for ever."""


def require_rate(rate: float | None) -> None:
    """Raises Misconfigured: no events can be sent at this rate."""
    if rate is not None and not _SLOWEST <= rate < math.inf:
        raise Misconfigured(f"--rate {rate}: must be at least {_SLOWEST} events a second")


class Pace:
    """Limits events to `rate` a second, evenly; None: no limit."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def wait(self) -> None:
        """Wait until the next event may go."""
        if not self.ready():
            self._sleep(max(0.0, self._next - self._clock()))
        self.spend()

    def ready(self) -> bool:
        """Whether the next event may go now."""
        return self.rate is None or self._clock() >= self._next

    def spend(self) -> None:
        """Note that an event goes; at most a second is caught up."""
        if self.rate is not None:
            self._next = max(self._next, self._clock() - 1.0) + 1 / self.rate

    def batch(self, most: int) -> int:
        """Events per batch: a second's, at most `most`, so that an interruption repeats few."""
        return most if self.rate is None else max(1, min(most, int(self.rate)))
