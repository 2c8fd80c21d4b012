"""Searches take turns: a few run at once, one of each reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from workers.errors import TagstreamError

AT_ONCE: Final = 4
WAITING: Final = 32
OF_READER: Final = 8
"""Of them at most; each download is a page of its own."""


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
