"""A sentence on the page: its vector, made in bounded time, and the pictures that are near to it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from pgvector import HalfVector

from tagstream_index.database import Connection
from tagstream_index.page import finding
from tagstream_index.page.finding import Counts, Cursor, Page, Tile
from tagstream_index.page.query import Query
from tagstream_index.searching import ABOUT_WITHIN, FUSED, Embedding, bounded, few, fused, nearest, space_number

_WAIT_S: Final = 1.5
_WAITING: Final = 8
_KEPT: Final = 256


class Sentences:
    """Vectors of sentences: one at a time in a thread, and the last 256 are kept. Thread-safe.

    Args:
        embed: makes the vector of a sentence.
    """

    def __init__(self, embed: Callable[[str], Embedding]) -> None:
        self._embed = embed
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[Embedding]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "tagstream-sentence")

    def vector(self, sentence: str) -> Embedding | None:
        """The vector; None: it is not made within 1.5 s, or eight sentences wait before it."""
        with self._lock:
            future = self._known.get(sentence)
            if future is None:
                if sum(not each.done() for each in self._known.values()) >= _WAITING:
                    return None
                future = self._known[sentence] = self._thread.submit(self._embed, sentence)
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(sentence)
        try:
            return future.result(_WAIT_S)
        except TimeoutError:
            return None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Pictures by fit: fit and subject, best first. `cut`: there are more, which are in no order."""

    order: list[tuple[float, str]]
    cut: bool

    def part(self, connection: Connection, after: Cursor | None, before: Cursor | None, limit: int) -> Page:
        """Pictures after or before a place. Raises Unavailable as `finding.find`."""
        if before is not None:
            some = [each for each in self.order if each > (before.fit, before.subject)]
            return Page(self._tiles(connection, some[-limit:]), len(some) > limit, True)
        some = [each for each in self.order if after is None or each < (after.fit, after.subject)]
        return Page(self._tiles(connection, some[:limit]), after is not None, len(some) > limit)

    def count(self, connection: Connection) -> Counts:
        """Of all its pictures. Raises Unavailable as `finding.find`."""
        counts = finding.count(connection, Query(), [subject for _, subject in self.order])
        return counts._replace(more=self.cut)

    def placed(self, tile: Tile) -> Tile:
        """The picture with its fit."""
        return replace(tile, fit=next((fit for fit, subject in self.order if subject == tile.subject), 0.0))

    @staticmethod
    def _tiles(connection: Connection, some: list[tuple[float, str]]) -> list[Tile]:
        there = finding.tiles(connection, [subject for _, subject in some])
        return [replace(there[subject], fit=fit) for fit, subject in some if subject in there]


def ranked(connection: Connection, query: Query, about: Embedding, *, with_words: bool) -> Ranking:
    """Pictures that meet the filters, by a sentence's vector; with words as one list of both.

    Raises:
        Unavailable: as `finding.find`.
        Misconfigured: the index has no vectors of that space.
    """
    asked: dict[str, Any] = {"vector": HalfVector(about.vector), "within": ABOUT_WITHIN, "end": FUSED}
    with bounded(connection) as asked["language"]:
        table = f"embedding_{space_number(connection, about)}"
        where = " and ".join(finding.apart(query, asked))
        asked["few"] = few(connection, where, asked)
        text = nearest("subject", table, where, asked)
        near = [subject for subject, _ in connection.execute(f"{text}, subject".encode(), asked, prepare=False)]
    rankings = [near]
    if with_words:
        rankings.append([each.subject for each in finding.find(connection, query, "best", limit=FUSED).tiles])
    return Ranking(fused(*rankings), any(len(each) >= FUSED for each in rankings))
