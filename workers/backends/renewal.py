"""Credentials, passwords and tokens that change while the worker runs: by a file, or for a time by a service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from workers.environment import read_secret

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

RENEWED_AFTER = 0.8
"""It is renewed after this share of its life: for the rest the service may be away."""
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


@dataclass(eq=False)
class Leased(Generic[Made]):
    """What a service gives for a time, renewed before it ends. Thread-safe.

    While the service is away, the last serves as long as it is valid.

    Args:
        ask: gets a new one, and the seconds of its life.
        fault: the error for an exception of `faults`, which `ask` raised; it is raised while none is valid.
        shortest_s: least time of use, even if by our clock it has ended.
    """

    what: str
    ask: Callable[[], tuple[Made, float]]
    faults: tuple[type[Exception], ...]
    fault: Callable[[Exception], Exception]
    shortest_s: float
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ask_at = self._valid_until = float("-inf")
        self._last: Made | None = None
        self._fault: Exception | None = None

    def __call__(self) -> Made:
        with self._lock:
            if self.monotonic() >= self._ask_at:
                self._renew()
            if self._last is not None and self.monotonic() < self._valid_until:
                return self._last
            assert self._fault is not None
            raise self._fault.with_traceback(None)

    def _renew(self) -> None:
        try:
            self._last, life_s = self.ask()
        except self.faults as error:
            self._fault = self.fault(error)
            self._ask_at = self.monotonic() + _AGAIN_S
            logger.warning("no new %s: %s", self.what, self._fault)
            return
        now, life_s = self.monotonic(), max(self.shortest_s, life_s)
        self._ask_at, self._valid_until = now + RENEWED_AFTER * life_s, now + life_s

    def ask_within(self, seconds: float) -> None:
        """Renew it within `seconds`."""
        with self._lock:
            self._ask_at = min(self._ask_at, self.monotonic() + seconds)
