"""The vectors of typed sentences, each made in bounded time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from tagstream_index.query import Embedding

_WAIT_S: Final = 1.5
_WAITING: Final = 8
_KEPT: Final = 256


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
