"""How many at once: searches take turns, sentences are read one by one, and requests share a few connections."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Final

import psycopg

from tagstream_index.database import Connection, connected
from tagstream_index.query import Embedding
from tagstream_index.searching import CUT_S, Searcher, searching
from tagstream_index.settings import IndexSettings
from workers.errors import TagstreamError, Unavailable

AT_ONCE, WAITING = 4, 32
"""Searches."""
OF_READER: Final = 8
"""Of the waiting ones at most; each download is a page of its own."""
SIZE: Final = AT_ONCE + 3
"""Pictures, /readyz and the counts of names need one too."""
_WAIT_S: Final = 3.0
_READ_S: Final = 1.5
_WAITING_SENTENCES: Final = 8
_KEPT_SENTENCES: Final = 256


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


class Busy(TagstreamError):
    """A search that does not get a turn."""


class Turns:
    """Lets `AT_ONCE` searches run, and `WAITING` wait in their order. For one event loop."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._waiting: dict[tuple[str, str], asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(self, who: str, what: str) -> AsyncIterator[None]:
        """
        Args:
            who: the reader. One search of a reader runs at a time.
            what: the page. A newer search of it by the same reader takes the place of one that still waits.

        Raises:
            Busy: too many wait, or a newer one took its place.
        """
        if who in self._running or len(self._running) >= AT_ONCE:
            await self._wait(who, what)
        else:
            self._running.add(who)
        try:
            yield
        finally:
            self._running.discard(who)
            self._next()

    async def _wait(self, who: str, what: str) -> None:
        older = self._waiting.get((who, what))
        if older is not None:
            older.set_exception(Busy("a newer search of this reader took its place"))
        elif len(self._waiting) >= WAITING or sum(each == who for each, _ in self._waiting) >= OF_READER:
            raise Busy("too many searches wait")
        self._waiting[who, what] = mine = asyncio.get_running_loop().create_future()
        await mine

    def _next(self) -> None:
        for (who, what), future in list(self._waiting.items()):
            if len(self._running) >= AT_ONCE:
                return
            if who not in self._running:
                del self._waiting[who, what]
                self._running.add(who)
                future.set_result(None)


class Sentences:
    """Vectors of sentences: one at a time in a thread, and the last 256 are kept. Thread-safe."""

    def __init__(self, embed: Callable[[str], Embedding]) -> None:
        self._embed = embed
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[Embedding]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "tagstream-sentence")

    def vector(self, sentence: str) -> Embedding | None:
        """The vector; None if it takes over 1.5 s, or eight sentences wait."""
        with self._lock:
            future = self._known.get(sentence)
            if future is None:
                if sum(not each.done() for each in self._known.values()) >= _WAITING_SENTENCES:
                    return None
                future = self._known[sentence] = self._thread.submit(self._embed, sentence)
                if len(self._known) > _KEPT_SENTENCES:
                    self._known.popitem(last=False)
            self._known.move_to_end(sentence)
        try:
            return future.result(_READ_S)
        except TimeoutError:
            return None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
