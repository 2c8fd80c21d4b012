"""Limits of a download: it talks to the hub and its CDN alone, over TLS, reads nothing of an answer but the file, and
is ended when it stalls."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from workers.errors import Unavailable

STALL_S = 600.0
"""So long may one piece of 10 MB take, and the first answer of the hub: 17 kB/s, below which nothing is downloaded."""
_END_S = 15.0
"""The library gives up a read after 10 s in which nothing came."""
_CDN: Final = ("huggingface.co", "hf.co")
"""Domains of the public hub: it answers, and its mirrors answer, with addresses in them for large files."""
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def is_trusted(url: str, origin: str) -> bool:
    """Whether a download that begins at `origin` may ask this address: its own host, or the hub's CDN over TLS."""
    asked, first = urlsplit(url), urlsplit(origin)
    host, own = asked.hostname or "", first.hostname or ""
    same = host == own or {host, own} <= _THIS_MACHINE
    if asked.scheme != "https":
        return same and asked.scheme == first.scheme == "http"
    return same or any(host == domain or host.endswith(f".{domain}") for domain in _CDN)


@contextmanager
def only_trusted(origin: str) -> Iterator[None]:
    """Context in which the hub's library asks no other addresses, wherever it is redirected, reads no body of an answer
    that is no success, which it would read whole, and writes no warning, which the hub may have worded.

    Raises:
        Unavailable: it was sent elsewhere.
    """
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def check(request: httpx2.Request) -> None:
        if not is_trusted(str(request.url), origin):
            there = f"{request.url.scheme}://{request.url.host}"[:200]
            raise Unavailable(
                "hub",
                f"{origin} sends us to {there}, which is neither its own host nor its CDN over TLS. Not followed.",
            )

    def cut(response: httpx2.Response) -> None:
        body = response.stream
        if not response.is_success and isinstance(body, httpx2.SyncByteStream):
            body.close()
            response.stream = httpx2.ByteStream(b"")
            response.headers.pop("Content-Encoding", None)

    def guarded() -> httpx2.Client:
        client = default_client_factory()
        client.event_hooks["request"].append(check)
        client.event_hooks["response"].append(cut)
        return client

    library = logging.getLogger("huggingface_hub")
    level = library.level
    library.setLevel(logging.ERROR)
    set_client_factory(guarded)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        library.setLevel(level)


class StallTimer:
    """Ends a download that stalls, even if a byte comes now and then: a read's own time-out never ends that.

    Args:
        stall_s: the longest time between two calls of `tick`.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._given_up = False

    def tick(self) -> None:
        """A piece came. Called by the work.

        Raises:
            TimeoutError: too late: the download was given up.
        """
        if self._given_up:
            raise TimeoutError
        self._said.put(_Said(ended=False))

    def run(self, work: Callable[[], None]) -> None:
        """Do the work, in a thread that is left behind if it stalls.

        Raises:
            TimeoutError: it stalled.
            Exception: whatever it raises.
        """
        thread = threading.Thread(target=self._work, args=(work,), name="tagstream-download", daemon=True)
        thread.start()
        while not (said := self._next(thread)).ended:
            pass
        thread.join()
        if said.error is not None:
            raise said.error

    def _work(self, work: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as raised:  # noqa: BLE001 # raised again in the thread that waits
            error = raised
        self._said.put(_Said(ended=True, error=error))

    def _next(self, thread: threading.Thread) -> _Said:
        from huggingface_hub import close_session

        try:
            return self._said.get(timeout=self._stall_s)
        except queue.Empty:
            self._given_up = True
            close_session()
            thread.join(_END_S)
            raise TimeoutError(f"no more than a trickle came in {self._stall_s:g} s") from None


@dataclass(frozen=True, slots=True)
class _Said:
    ended: bool
    error: Exception | None = None
