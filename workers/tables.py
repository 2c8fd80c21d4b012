"""Tables in a temporary file: memory does not grow with a topic."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from workers.errors import Misconfigured

_PRAGMAS: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
"""

_ROWS: Final = 20_000
"""Rows in memory, some 10 MB, before they are stored."""
_SORTED_ROWS: Final = 5_000
"""Rows between two reports of progress."""
_STEPS: Final = 12
"""Of SQLite's machine, about so many for each row that it sorts."""


class TemporaryTables:
    """Keeps SQLite tables in an unnamed file. Use it in a `with`, or `close` it.

    SQLite removes the file by itself.

    Args:
        tables: statements that create them, and further pragmas.
        failed: what could not be done if the file can't be written.
    """

    def __init__(self, tables: str, failed: str) -> None:
        self._failed = failed
        self._stored = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._stored.executescript(_PRAGMAS + tables)

    def close(self) -> None:
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raises Misconfigured: the temporary file could not be written."""
        self.close()
        if isinstance(error, sqlite3.Error):
            raise Misconfigured(
                f"{self._failed} in a temporary file ({error}): let TMPDIR name a folder with room"
            ) from error

    def _write(self, statement: str, rows: list[Any]) -> None:
        """Store the rows, and clear them."""
        self._stored.execute("BEGIN")
        self._stored.executemany(statement, rows)
        self._stored.execute("COMMIT")
        rows.clear()


class SortedRows(TemporaryTables):
    """Takes rows in any order and returns them sorted, once.

    Args:
        columns: with their types, as SQL has them.
    """

    def __init__(self, columns: str, order: str, tables: str = "") -> None:
        statements = f"PRAGMA cache_size = -32000; CREATE TABLE rows ({columns}); {tables}"
        super().__init__(statements, "what was read can't be sorted")
        self._keep = f"INSERT INTO rows VALUES ({', '.join('?' * len(columns.split(',')))})"
        self._order = order
        self._rows: list[tuple[Any, ...]] = []
        self.count = 0

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self._store()

    def sorted(self, advance: Callable[[int], object] = lambda _: None) -> Iterator[tuple[Any, ...]]:
        """All rows, in their order.

        Args:
            advance: told how many rows were sorted, and then how many were returned: in the end twice their number.
        """
        self._store()
        left = self.count

        def sorting() -> None:
            nonlocal left
            done = min(left, _SORTED_ROWS)
            left -= done
            if done:
                advance(done)

        self._stored.set_progress_handler(sorting, _SORTED_ROWS * _STEPS)
        rows = self._stored.execute(f"SELECT * FROM rows ORDER BY {self._order}")
        while some := rows.fetchmany(_SORTED_ROWS):
            advance(left + len(some))
            left = 0
            yield from some

    def _store(self) -> None:
        self.count += len(self._rows)
        self._write(self._keep, self._rows)
