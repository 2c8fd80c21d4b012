"""Reads the whole topic into tables, as `rebuild` and `check` need it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from tagstream_index.database import limited
from tagstream_index.merge import CLEAR, Spaces, store
from tagstream_index.outcomes import Row, read_row
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
        self._rows: list[Row] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "load")
        self._writing: Future[None] | None = None
        self.records = self.refused = 0
        self.times_ms: dict[Partition, int] = {}
        """The time of each partition's last record."""

    def take(self, record: ReadRecord) -> None:
        """
        Raises:
            ValueError: it is no outcome.
        """
        if record.value is None:
            return
        self._rows.append(self._keep(read_row(record.value, record.headers)))
        self._bytes += record.size
        self.records += 1
        self.times_ms[Partition(record.topic, record.partition)] = record.timestamp_ms
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def finish(self) -> None:
        """Merge what is left, and wait for it."""
        self._flush()
        self._await()

    def _await(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _flush(self) -> None:
        self._await()
        self._writing = self._thread.submit(self._write, self._rows)
        self._rows, self._bytes = [], 0

    def _write(self, rows: list[Row]) -> None:
        connection = self.spaces.connection
        with limited(connection), connection.transaction():
            connection.execute(CLEAR)
            self.spaces.meet(rows)
            self.refused += sum(not isinstance(each, Row) for each in store(connection, rows, self.spaces.known))
