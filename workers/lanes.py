"""Lanes: live work goes first, background work gets what is left, and what is begun is finished."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.types import Lane, Partition

LIVE_IN_A_ROW = 8
"""After so many live turns in a row, waiting background work has one: what is begun must end under any live load."""


def is_background(partition: Partition, topics: Collection[str]) -> bool:
    """Whether the partition is of one of these background topics."""
    return partition.topic in topics


def lane_of(partition: Partition, topics: Collection[str]) -> Lane:
    """The partition's lane, where these topics are background."""
    return "background" if is_background(partition, topics) else "live"


class Precedence:
    """Decides which lane is next where both wait. Not thread-safe."""

    def __init__(self) -> None:
        self._live_in_a_row = 0

    @property
    def background_is_next(self) -> bool:
        return self._live_in_a_row >= LIVE_IN_A_ROW

    def had_turn(self, *, background: bool, background_waits: bool) -> None:
        """Count a turn of a lane."""
        self._live_in_a_row = self._live_in_a_row + 1 if background_waits and not background else 0
