"""Keeps JPEGs for a day, each for its subject and content."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

from workers.tables import TemporaryTables

KEPT_S: Final = 24 * 3600.0
"""A day."""
_PAGE_BYTES: Final = 4096
_MAKES_ROOM: Final = 100
"""The oldest pictures, which go where there is no room."""
_AT_ONCE: Final = 1_000
_TABLES: Final = f"""
pragma page_size = {_PAGE_BYTES}; pragma journal_mode = memory; pragma secure_delete = on;
create table picture (subject, side, sha256, made_at, jpeg, primary key (subject, side, sha256));
create index picture_made_at on picture (made_at);
"""

Current: TypeAlias = Callable[[list[str]], Mapping[str, str]]
"""Gives the sha256 of the content by subject, for given subjects that the index shows."""


class Kept(TemporaryTables):
    """JPEGs in a temporary file, which ends with the process. Thread-safe.

    Args:
        most_bytes: of the file; the oldest pictures go first.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__(_TABLES, "pictures can't be kept")
        self._stored.execute(f"pragma max_page_count = {most_bytes // _PAGE_BYTES}")
        self._lock = threading.Lock()

    def read(self, subject: str, sha256: str, side: int) -> bytes | None:
        """The kept JPEG of this content, if any."""
        kept = "select jpeg from picture where (subject, side, sha256) = (?, ?, ?) and made_at > ?"
        with self._lock:
            found = self._stored.execute(kept, (subject, side, sha256, time.time() - KEPT_S)).fetchone()
        return None if found is None else bytes(found[0])

    def write(self, subject: str, sha256: str, side: int, jpeg: bytes) -> None:
        """Keep a picture; without room the next one is."""
        new = "insert or replace into picture values (?, ?, ?, ?, ?)"
        with self._lock, suppress(sqlite3.OperationalError):
            try:
                self._stored.execute(new, (subject, side, sha256, time.time(), jpeg))
            except sqlite3.OperationalError:
                oldest = "select rowid from picture order by made_at limit ?"
                self._stored.execute(f"delete from picture where rowid in ({oldest})", (_MAKES_ROOM,))

    def sweep(self, current: Current) -> None:
        """Remove old pictures, and those of other content than the index shows."""
        with self._lock:
            self._stored.execute("delete from picture where made_at <= ?", (time.time() - KEPT_S,))
            kept = self._stored.execute("select distinct subject, sha256 from picture").fetchall()
        for first in range(0, len(kept), _AT_ONCE):
            some = kept[first : first + _AT_ONCE]
            there = current([subject for subject, _ in some])
            over = [(subject, sha256) for subject, sha256 in some if there.get(subject) != sha256]
            with self._lock:
                self._stored.executemany("delete from picture where (subject, sha256) = (?, ?)", over)
