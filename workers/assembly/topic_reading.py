"""Reads topics to their present end and counts foreign records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from schemas.printable import counted
from schemas.text import first_fault
from workers.assembly.clients import security, servers
from workers.assembly.progress import Counting, uncounted
from workers.backends.kafka import Tail, tail
from workers.errors import Unavailable
from workers.settings import Settings
from workers.types import Partition, ReadRecord

STALLED_S = 60.0
"""Longer than any transaction lasts."""
_POLL_S = 0.2
_KEEP_AFTER = 2_000
"""Records between two calls of `keep`."""


@dataclass(slots=True)
class Foreign:
    """Counts records that do not belong; any producer may write to a topic."""

    count: int = 0
    first: str = ""
    nulls: int = 0
    """Records of null value, whether they belong or not."""

    def note(self, record: ReadRecord, why: ValueError) -> None:
        self.first = self.first or f"{record.place}: {first_fault(why)}"
        self.count += 1

    def taking(self, take: Callable[[ReadRecord], object]) -> Callable[[ReadRecord], None]:
        """`take`, with the records that it refuses by a ValueError counted here."""

        def taken(record: ReadRecord) -> None:
            self.nulls += record.value is None
            try:
                take(record)
            except ValueError as error:
                self.note(record, error)

        return taken

    def notes(self, what: str, nulls: str = "") -> Iterator[str]:
        """Yield a line if there were any.

        Args:
            nulls: what records of null value are, where these are told too.
        """
        if nulls and self.nulls:
            yield f"{counted(self.nulls, 'record')} of null value: {nulls}"
        if self.count:
            yield f"{counted(self.count, 'record')} skipped ({what}); the first is {self.first}"


def read_topic(
    settings: Settings,
    topic: str,
    take: Callable[[ReadRecord], object],
    *,
    at: Mapping[Partition, int] | None = None,
    keep: Callable[[Mapping[Partition, int]], None] = lambda _: None,
    counting: Counting = uncounted,
) -> Foreign:
    """Pass a topic's committed records, up to its present end, to `take`.

    Args:
        take: raises ValueError for a foreign record, which is counted. Records of one partition come in order.
        at: offsets to begin at; partitions without one are read from their beginning.
        keep: gets the positions behind all records taken, now and then and at the end.

    Raises:
        Misconfigured: the topic does not exist.
        Unavailable: no broker answers, or no offset was read for `STALLED_S`.
    """
    foreign, taken = Foreign(), 0
    note = foreign.taking(take)

    def count(record: ReadRecord) -> None:
        nonlocal taken
        note(record)
        taken += 1

    def polled() -> None:
        nonlocal taken
        if taken >= _KEEP_AFTER:
            taken = 0
            keep(reading.positions())

    with tail(
        servers(settings), [topic], start="beginning", at=at, follow=False, security=security(settings)
    ) as reading:
        drain(reading, f"offsets of {topic}", count, polled, counting=counting)
        keep(reading.positions())
    return foreign


def drain(
    reading: Tail,
    what: str,
    take: Callable[[ReadRecord], object],
    polled: Callable[[], object] = lambda: None,
    *,
    counting: Counting = uncounted,
) -> None:
    """Pass all records up to the set ends to `take`.

    Raises Unavailable: a broker does not answer, or no offset was read for `STALLED_S`.
    """
    left = sum(reading.left().values())
    with counting(what, left) as advance:
        moved_at = time.monotonic()
        while left:
            for record in reading.poll(_POLL_S):
                take(record)
            polled()
            behind = reading.left()
            before, left = left, sum(behind.values())
            advance(before - left)
            moved_at = time.monotonic() if left < before else moved_at
            if time.monotonic() - moved_at > STALLED_S:
                stuck, offset = next((place, reading.positions()[place]) for place, count in behind.items() if count)
                raise Unavailable(
                    "kafka",
                    f"{stuck} can't be read beyond offset {offset}, perhaps for a transaction that stays open, "
                    f"for {STALLED_S:g} s",
                )
