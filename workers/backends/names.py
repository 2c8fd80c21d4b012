"""Connecting to a name, within a time. The system takes as long as it likes to find a name's addresses, minutes where
its servers of names are away, and can't be told otherwise: so a thread waits for it."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

Connected = TypeVar("Connected")

_SHORTEST_S = 0.001


def connected(
    name: str, port: int, within_s: float, connect: Callable[[str, float], Connected], fault: type[Exception]
) -> Connected:
    """What `connect` makes of the first of the name's addresses that lets it, within so many seconds together. An
    address that never answers leaves its share of them to each of the others.

    Args:
        connect: given an address, and its share.
        fault: what `connect` raises where the next address is to be tried.

    Raises:
        TimeoutError, OSError, ValueError: there is no address, as `addresses`.
        `fault`: none of them lets it; that of the last.
    """
    until = time.monotonic() + within_s
    error: Exception = OSError("the name has no address")
    found = addresses(name, port, within_s)
    for number, address in enumerate(found):
        share_s = (until - time.monotonic()) / (len(found) - number)
        try:
            return connect(address, max(_SHORTEST_S, share_s))
        except fault as failed:
            error = failed
    raise error


def addresses(name: str, port: int, within_s: float) -> Sequence[str]:
    """
    Raises:
        TimeoutError: they are not found by then.
        OSError, ValueError: there are none, or no thread is left to ask for them.
    """
    found: SimpleQueue[Sequence[str] | OSError | ValueError] = SimpleQueue()

    def resolve() -> None:
        try:
            found.put([str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)])
        except (OSError, ValueError) as error:
            found.put(error)

    try:
        threading.Thread(target=resolve, name="resolve", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"{name} can't be resolved: {error}") from error
    try:
        answer = found.get(timeout=within_s)
    except Empty:
        raise TimeoutError(f"{name} was not resolved within {within_s:.1f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
