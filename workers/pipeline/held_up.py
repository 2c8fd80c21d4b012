"""What the log and /readyz say of partitions with an open transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from workers.types import Partition

_log = logging.getLogger(__name__)

AFTER_S = 30.0
"""Transactions of honest producers are over sooner."""


class HeldUp:
    """Partitions that are held up for long. `step` and `notices` may be called by one thread each.

    Args:
        held_up: seconds for each partition, as `RecordSource.held_up`.
        after_s: how long is worth a line.
    """

    def __init__(self, held_up: Callable[[], Mapping[Partition, float]] = dict, after_s: float = AFTER_S) -> None:
        self._held_up = held_up
        self._after_s = after_s
        self._told: set[Partition] = set()

    def notices(self) -> list[str]:
        """A line for each of them, for people."""
        return [
            f"{place} is held up for {seconds:.0f} s by an open transaction of a producer"
            for place, seconds in self._long()
        ]

    def step(self) -> None:
        """Log where one begins and where it is over."""
        held = {place for place, _ in self._long()}
        for place in sorted(held - self._told):
            _log.warning(
                "%s is held up by an open transaction of a producer: nothing behind it is read until it ends, at the "
                "latest after the producer's transaction.timeout.ms",
                place,
            )
        for place in sorted(self._told - held):
            _log.info("%s is held up no longer", place)
        self._told = held

    def _long(self) -> list[tuple[Partition, float]]:
        return sorted((place, seconds) for place, seconds in self._held_up().items() if seconds >= self._after_s)
