"""Reads the whole topic into tables, for `rebuild` and `check`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from tagstream_index import left_out
from tagstream_index.database import limited
from tagstream_index.left_out import LeftOut
from tagstream_index.merge import CLEAR, Spaces, store
from tagstream_index.outcomes import Passed, Row, believed_ms, read_record
from workers.backends.kafka import ReadRecord
from workers.types import Partition

_ROWS: Final = 1_000
_BYTES: Final = 4 << 20
"""Of one transaction, about."""


class Loader:
    """Merges records in batches: one is read while the database works on the last.

    Args:
        keep: changes a row before it is merged.
    """

    def __init__(self, spaces: Spaces, keep: Callable[[Row], Row] = lambda row: row) -> None:
        self.spaces = spaces
        self._keep = keep
        self._rows: list[tuple[ReadRecord, Row]] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "load")
        self._writing: Future[None] | None = None
        self.records = self.refused = 0
        self.times_ms: dict[Partition, int] = {}
        """The time of the last record of each partition, ignoring impossible times."""
        self.left_out: dict[Partition, deque[LeftOut]] = {}
        """The newest of each partition."""

    def take(self, record: ReadRecord) -> None:
        """
        Raises:
            ValueError: it is no outcome.
        """
        found = read_record(record)
        if isinstance(found, Passed):
            if found.kind == "unreadable":
                self._leave_out([record], [found])
                raise ValueError(found.why)
            return
        self._rows.append((record, self._keep(found)))
        self._bytes += record.size
        self.records += 1
        if (at_ms := believed_ms(record.timestamp_ms)) is not None:
            self.times_ms[Partition(record.topic, record.partition)] = at_ms
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def finish(self) -> None:
        """Merge the remaining records, and wait for it."""
        self._flush()
        self._await()

    def _await(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _flush(self) -> None:
        self._await()
        self._writing = self._thread.submit(self._write, self._rows)
        self._rows, self._bytes = [], 0

    def _write(self, read: Sequence[tuple[ReadRecord, Row]]) -> None:
        connection, rows = self.spaces.connection, [row for _, row in read]
        with limited(connection), connection.transaction():
            connection.execute(CLEAR)
            self.spaces.meet(rows)
            stored = store(connection, rows, self.spaces.known)
        self.refused += sum(not isinstance(each, Row) for each in stored)
        self._leave_out([record for record, _ in read], stored)

    def _leave_out(self, records: Sequence[ReadRecord], entries: Sequence[Row | Passed]) -> None:
        for each in left_out.of_records(records, entries):
            self.left_out.setdefault(each.partition, deque(maxlen=left_out.MOST)).append(each)
