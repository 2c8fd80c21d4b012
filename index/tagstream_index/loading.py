"""Reads the whole topic into tables, for `rebuild` and `check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tagstream_index.merge import Spaces, write_records
from tagstream_index.outcomes import Passed, Row, read_record
from workers.types import Partition, ReadRecord

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
        self._waiting: list[tuple[ReadRecord, Row | Passed]] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "load")
        self._writing = self._thread.submit(lambda: None)
        self.records = self.refused = 0
        self.times_ms: dict[Partition, int] = {}
        """The time of the last record of each partition, as its producer says."""

    def take(self, record: ReadRecord) -> None:
        """Raises ValueError: it is no outcome."""
        self.times_ms[Partition(record.topic, record.partition)] = record.timestamp_ms
        entry = read_record(record)
        if isinstance(entry, Passed) and entry.kind == "tombstone":
            return
        self._waiting.append((record, self._keep(entry) if isinstance(entry, Row) else entry))
        self._bytes += record.size
        if len(self._waiting) >= _ROWS or self._bytes >= _BYTES:
            self._flush()
        if isinstance(entry, Passed):
            raise ValueError(entry.why)
        self.records += 1

    def finish(self) -> None:
        """Merge the remaining records, and wait for it."""
        self._flush()
        self._writing.result()

    def _flush(self) -> None:
        self._writing.result()
        self._writing = self._thread.submit(self._write, self._waiting)
        self._waiting, self._bytes = [], 0

    def _write(self, read: Sequence[tuple[ReadRecord, Row | Passed]]) -> None:
        records, entries = [record for record, _ in read], [entry for _, entry in read]
        stored = write_records(self.spaces, records, entries, {})
        self.refused += sum(new is not old for new, old in zip(stored, entries, strict=True))
