"""Progress of long work, as commands count it, and its pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from workers.errors import Misconfigured

Counting: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], object]]]
"""Gets the name of items and their number, if known; its context is a function that takes how many more are done."""
Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Gets the name of a task, how much of it is done, and how much there is, if that is known."""


@contextmanager
def uncounted(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None


_SLOWEST = 0.001
"""Least events a second: no system sleeps for ever."""


def require_rate(rate: float | None) -> None:
    """Raises Misconfigured: no events can be sent at this rate."""
    if rate is not None and not _SLOWEST <= rate < math.inf:
        raise Misconfigured(f"--rate {rate}: must be at least {_SLOWEST} events a second")


@dataclass(eq=False)
class Pace:
    """Limits events to `rate` a second, evenly; None: no limit."""

    rate: float | None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def __post_init__(self) -> None:
        self._next = self.clock()

    def wait(self) -> None:
        """Wait until the next event may go."""
        if not self.ready():
            self.sleep(max(0.0, self._next - self.clock()))
        self.spend()

    def ready(self) -> bool:
        """Whether the next event may go now."""
        return self.rate is None or self.clock() >= self._next

    def spend(self) -> None:
        """Note that an event goes; at most a second is caught up."""
        if self.rate is not None:
            self._next = max(self._next, self.clock() - 1.0) + 1 / self.rate

    def batch(self, most: int) -> int:
        """Events per batch: a second's, at most `most`, so that an interruption repeats few."""
        return most if self.rate is None else max(1, min(most, int(self.rate)))
