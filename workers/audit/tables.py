"""Tables in a temporary file: memory does not grow with a topic."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, Self

from workers.errors import Misconfigured

_PRAGMAS: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
"""


class TemporaryTables:
    """Keeps SQLite tables in an unnamed file. Use it in a `with`, or `close` it.

    SQLite removes the file by itself.

    Args:
        tables: statements that create them, and further pragmas.
        failed: what could not be done if the file can't be written.
    """

    def __init__(self, tables: str, failed: str) -> None:
        self._failed = failed
        self._stored = sqlite3.connect("", isolation_level=None)
        self._stored.executescript(_PRAGMAS + tables)

    def close(self) -> None:
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """
        Raises:
            Misconfigured: the temporary file could not be written.
        """
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
