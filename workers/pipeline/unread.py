"""Admitted records that wait to be parsed: one message may hold a thousand events, which is unknown before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from workers import metrics
from workers.pipeline.commit.ledger import Entry
from workers.types import Assignment


class Unread:
    """Each partition's entries in offset order. Belongs to the thread that parses.

    Args:
        may_read: whether there is room for what is in an entry's message.
    """

    def __init__(self, may_read: Callable[[Entry], bool]) -> None:
        self._may_read = may_read
        self._waiting: dict[Assignment, deque[Entry]] = {}

    def add(self, entry: Entry) -> None:
        self._waiting.setdefault(entry.record.assignment, deque()).append(entry)

    def readable(self) -> Iterator[Entry]:
        """Entries for which there is room, the partitions taking turns; each is to be read before the next is taken.

        Those of ended assignments are dropped: the partition's new owner reads them.
        """
        turns = deque(self._waiting)
        while turns:
            assignment = turns.popleft()
            entries = self._waiting[assignment]
            if not assignment.current:
                metrics.DROPPED_JOBS.add(len(self._waiting.pop(assignment)))
            elif self._may_read(entries[0]):
                entry = entries.popleft()
                if entries:
                    turns.append(assignment)
                else:
                    del self._waiting[assignment]
                yield entry

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._waiting.values())
