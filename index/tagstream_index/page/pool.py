"""A few connections to the database, one for each running request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Final

import psycopg

from tagstream_index.database import Connection, connected
from tagstream_index.page.turns import AT_ONCE
from tagstream_index.searching import CUT_S, Searcher, searching
from tagstream_index.settings import IndexSettings
from workers.errors import Unavailable

SIZE: Final = AT_ONCE + 3
"""Pictures, /readyz and the counts of names need one too."""
_WAIT_S: Final = 3.0


class Pool:
    """Read-only connections, made when they are needed and kept while they work. Thread-safe.

    Unlike psycopg_pool it makes a connection in the thread that needs it, so a page can say why that fails.
    """

    def __init__(self, settings: IndexSettings, size: int = SIZE) -> None:
        self._settings = settings
        self._free = LifoQueue[Connection | None]()
        """None: a connection that is not made yet."""
        for _ in range(size):
            self._free.put(None)
        self._size = size

    @contextmanager
    def searching(self) -> Iterator[Searcher]:
        """A transaction of searches. Raises as `lent` and `searching`."""
        with self.lent() as connection, searching(connection) as searcher:
            yield searcher

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """A connection that works.

        Raises:
            Unavailable: the database is away, or all connections are busy for 3 s.
            Misconfigured: the tables are missing, or of another version.
        """
        try:
            connection = self._free.get(timeout=_WAIT_S)
        except Empty:
            busy = "all connections are busy"
            raise Unavailable("postgresql", busy, fault="too-slow", advice="Try again in a moment.") from None
        try:
            connection = self._checked(connection)
            yield connection
        finally:
            self._free.put(None if connection is None or connection.closed or connection.broken else connection)

    def _checked(self, connection: Connection | None) -> Connection:
        if connection is not None:
            with suppress(psycopg.Error):
                connection.execute("select")  # it may have been cut off while it was idle
                return connection
            connection.close()
        connection = connected(self._settings)
        connection.read_only = True
        return connection

    def close(self) -> None:
        """Close all connections; waits for running searches, 6 s at most."""
        for _ in range(self._size):
            with suppress(Empty):
                if (connection := self._free.get(timeout=CUT_S)) is not None:
                    connection.close()
