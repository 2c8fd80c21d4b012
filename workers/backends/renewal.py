"""Credentials, passwords and tokens that change while the worker runs: by a file, or for a time by a service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from workers.environment import read_secret

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

RENEWED_AFTER = 0.8
"""A lease is renewed after this share of its life: for the rest the service may be away."""
_AGAIN_S = 1.0
"""Pause after a failure, or all threads would ask, one after the other."""


class RenewedFile(Generic[Made]):
    """A file's content, read again when it has changed. Thread-safe.

    If the file is half written or missing, its last content holds until it can be read.

    Args:
        first: the content of an earlier reading elsewhere; None: not read yet.
    """

    def __init__(self, path: Path, parse: Callable[[str], Made], first: Made | None = None) -> None:
        self._path = path
        self._parse = parse
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._last = first
        self._unread = False

    def __call__(self) -> Made:
        """Raises OSError, ValueError: it could never be read."""
        with self._lock:
            try:
                seen = _stamp(self._path)
                if seen != self._seen:
                    self._last = self._parse(read_secret(self._path))
                    self._seen = seen
                self._unread = False
            except (OSError, ValueError) as error:
                if self._last is None:
                    raise
                if not self._unread:
                    logger.warning("%s can't be used now; using its last content: %s", self._path, why(error))
                self._unread = True
            assert self._last is not None
            return self._last

    def forget(self) -> None:
        """Read the file again next time, even if it looks the same."""
        with self._lock:
            self._seen = None


class Secret:
    """A secret of the settings: fixed, or its file's present content."""

    def __init__(self, value: str, path: Path | None = None) -> None:
        self._value = value
        self._file = None if path is None else RenewedFile(path, one_line, value)

    def __call__(self) -> str:
        return self._value if self._file is None else self._file()

    def forget(self) -> None:
        """Read its file again next time."""
        if self._file is not None:
            self._file.forget()


def one_line(text: str) -> str:
    """A secret as a file holds it. Raises ValueError: it is empty, as a file that is just being written."""
    if not (secret := text.rstrip("\r\n")):
        raise ValueError("it is empty")
    return secret


def why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


class Lease:
    """The times of one lease, by a monotonic clock. Not thread-safe.

    Args:
        shortest_s: least time of use, even if by our clock it has ended.
    """

    def __init__(self, shortest_s: float, monotonic: Callable[[], float]) -> None:
        self._shortest_s = shortest_s
        self._monotonic = monotonic
        self._ask_at = self._valid_until = float("-inf")

    @property
    def due(self) -> bool:
        """Whether to renew it now."""
        return self._monotonic() >= self._ask_at

    @property
    def valid(self) -> bool:
        return self._monotonic() < self._valid_until

    def granted(self, life_s: float) -> None:
        life_s = max(self._shortest_s, life_s)
        now = self._monotonic()
        self._ask_at, self._valid_until = now + RENEWED_AFTER * life_s, now + life_s

    def failed(self) -> None:
        self._ask_at = self._monotonic() + _AGAIN_S

    def ask_within(self, seconds: float) -> None:
        """Renew it within `seconds`."""
        self._ask_at = min(self._ask_at, self._monotonic() + seconds)
