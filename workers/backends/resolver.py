"""Resolves names, and connects to them, within a time.

getaddrinfo has no time-out and takes minutes while name servers are away: a thread for each name waits for it.
"""

from __future__ import annotations

import errno
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeAlias, TypeVar

Connected = TypeVar("Connected")

Entry: TypeAlias = tuple[Any, ...]
"""Of `socket.getaddrinfo`."""

_SHORTEST_S = 0.001
_KEPT_S = 30.0
"""A late answer is dropped after so many seconds."""


def connected(
    name: str, port: int, within_s: float, connect: Callable[[str, float], Connected], fault: type[Exception]
) -> Connected:
    """Connect to the first of the name's addresses that answers.

    All take at most `within_s` together; each address has an equal share of what is left.

    Args:
        connect: given an address, and its share.
        fault: what `connect` raises where the next address is to be tried.

    Raises:
        TimeoutError, OSError, ValueError: there is no address, as `resolved`.
        `fault`: every address failed (the last address's error).
    """
    until = time.monotonic() + within_s
    error: Exception = OSError("the name has no address")
    found = [str(entry[4][0]) for entry in resolved(name, port, within_s)]
    for number, address in enumerate(found):
        share_s = (until - time.monotonic()) / (len(found) - number)
        try:
            return connect(address, max(_SHORTEST_S, share_s))
        except fault as failed:
            error = failed
    raise error


def resolved(name: str, port: int, within_s: float) -> Sequence[Entry]:
    """The entries of `socket.getaddrinfo` for a name.

    Concurrent callers share one lookup. A late answer is kept for the next caller, or a slow name would never be known.

    Raises:
        TimeoutError: it is not found by then.
        OSError, ValueError: there is none, or no thread is left to ask for it.
    """
    asked = name, port
    with _lock:
        for stale in [other for other, each in _lookups.items() if each.is_stale]:
            del _lookups[stale]
        lookup = _lookups.get(asked)
        if lookup is None:
            lookup = _Lookup(name, port)
            lookup.begin()
            _lookups[asked] = lookup
    try:
        return lookup.answer.result(within_s)
    except TimeoutError:
        raise TimeoutError(f"{name} was not resolved within {within_s:.1f} s") from None
    finally:
        with _lock:
            if lookup.answer.done() and _lookups.get(asked) is lookup:
                del _lookups[asked]


class _Lookup:
    def __init__(self, name: str, port: int) -> None:
        self.answer: Future[Sequence[Entry]] = Future()
        self._asked = name, port
        self._ended = math.inf

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._ended > _KEPT_S

    def begin(self) -> None:
        """
        Raises:
            OSError: there is no thread for it.
        """
        try:
            threading.Thread(target=self._work, name="resolve", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"{self._asked[0]} can't be resolved: {error}") from error

    def _work(self) -> None:
        try:
            found: Sequence[Entry] = socket.getaddrinfo(*self._asked, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            self._ended = time.monotonic()
            self.answer.set_exception(error)
        else:
            self._ended = time.monotonic()
            self.answer.set_result(found)


_lock: Final = threading.Lock()
_lookups: Final[dict[tuple[str, int], _Lookup]] = {}
"""Lookups under way, and late answers."""
