"""A few connections to the database, one for each running request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg

from tagstream_index.database import Connection, connected
from tagstream_index.page.turns import AT_ONCE
from tagstream_index.searching import Searcher, searching
from tagstream_index.settings import IndexSettings
from workers.errors import Unavailable

SIZE: Final = AT_ONCE + 2
"""Pictures and /readyz need one too."""
_WAIT_S: Final = 3.0


class Pool:
    """Read-only connections, made when they are needed and kept while they work. Thread-safe."""

    def __init__(self, settings: IndexSettings, size: int = SIZE) -> None:
        self._settings = settings
        self._slots = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []

    @contextmanager
    def searching(self) -> Iterator[Searcher]:
        """A transaction of searches.

        Raises:
            Unavailable, Misconfigured: as `lent`; and a search is too slow.
        """
        with self.lent() as connection, searching(connection) as searcher:
            yield searcher

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """
        Raises:
            Unavailable: the database is away, or all connections are busy for 3 s.
            Misconfigured: the tables are missing, or of another version.
        """
        if not self._slots.acquire(timeout=_WAIT_S):
            raise Unavailable(
                "postgresql", "all connections are busy", fault="too-slow", advice="Try again in a moment."
            )
        connection: Connection | None = None
        try:
            connection = self._take()
            yield connection
        finally:
            if connection is not None and not connection.closed and not connection.broken:
                self._idle.append(connection)
            self._slots.release()

    def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            with suppress(psycopg.Error):
                connection.execute("select")  # it may have been cut off while it was idle
                return connection
            connection.close()
        connection = connected(self._settings)
        connection.read_only = True
        return connection

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
