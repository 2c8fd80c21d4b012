"""The addresses of a name, within a time. The system takes as long as it likes to find them, minutes where its servers
of names are away, and can't be told otherwise: so a thread waits for it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue


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
