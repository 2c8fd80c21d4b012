"""When to leave a dependency alone and when to ask it again: decided here, acted on by the caller."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

State: TypeAlias = Literal["closed", "open", "half-open"]
STATES: tuple[State, ...] = get_args(State)

OPENS_AFTER = 3
"""Different things that failed in a row. One that always fails proves nothing about the others, however often."""

_PROBE_S = 5.0
"""A probe that has not come back by then keeps no other from being sent: its connection may be a dead one."""


@dataclass(eq=False)
class Breaker:
    """Opens when different things fail in a row; any success closes it.

    While it is open, one probe at a time is let through: after `first_pause_s`, then after twice the pause before, up
    to `last_pause_s`.

    Not thread-safe. Times are a monotonic clock's seconds.

    Args:
        opens_after: so many different things.
        jitter: the share of a pause by which chance may shorten it, so that many workers do not ask at the same moment.
    """

    first_pause_s: float
    last_pause_s: float
    opens_after: int = OPENS_AFTER
    jitter: float = 0.5

    def __post_init__(self) -> None:
        self._failing: set[Hashable] = set()
        self._open = False
        self._pause_s = self.first_pause_s
        self._probe_at = 0.0
        self._probing_since: float | None = None

    @property
    def state(self) -> State:
        if not self._open:
            return "closed"
        return "open" if self._probing_since is None else "half-open"

    def failed(self, what: Hashable, now: float, *, at_once: bool = False) -> bool:
        """A call about `what` failed. True: that has opened it.

        Args:
            at_once: others need not fail as well.
        """
        self._failing.add(what)
        if self._open or (len(self._failing) < self.opens_after and not at_once):
            return False
        self._open = True
        self._wait(now)
        return True

    def succeeded(self, now: float) -> bool:
        """A call was answered. True: that has closed it."""
        self._pause_s = self.first_pause_s
        return self._close()

    def may_probe(self, now: float) -> bool:
        if not self._open or now < self._probe_at:
            return False
        return self._probing_since is None or now - self._probing_since >= _PROBE_S

    def pause_s(self, now: float) -> float:
        """Seconds until an open breaker may send its next probe."""
        return max(0.0, self._probe_at - now)

    def probe(self, now: float) -> None:
        """One is on its way; `probe_failed`, `probe_answered`, `probe_lost` or `succeeded` follows."""
        self._probing_since = now

    def probe_failed(self, now: float) -> None:
        self._probing_since = None
        self._lengthen()
        self._wait(now)

    def probe_answered(self, now: float) -> None:
        """Close it. Should calls go on failing, the pauses go on growing: only `succeeded` makes them short again."""
        self._lengthen()
        self._close()

    def probe_lost(self) -> None:
        """It never got to ask: the next may go at once."""
        self._probing_since = None

    def _close(self) -> bool:
        self._failing.clear()
        self._probing_since = None
        was_open, self._open = self._open, False
        return was_open

    def _lengthen(self) -> None:
        self._pause_s = min(self.last_pause_s, 2 * self._pause_s)

    def _wait(self, now: float) -> None:
        self._probe_at = now + random.uniform(self._pause_s * (1 - self.jitter), self._pause_s)
