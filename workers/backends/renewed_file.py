"""Files whose content changes while the worker runs: credentials, passwords and tokens that others renew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from workers.settings import read_secret

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


class RenewedFile(Generic[Made]):
    """What a file says, read again whenever it has changed. Thread-safe.

    A file that is half written or has vanished changes nothing: what it said last holds until it can be read.

    Args:
        parse: makes something of its text; a ValueError says why it can't.
        first: what it said when it was read elsewhere before; None: it is still to be read.
    """

    def __init__(self, path: Path, parse: Callable[[str], Made], first: Made | None = None) -> None:
        self._path = path
        self._parse = parse
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._last = first
        self._unread = False

    def __call__(self) -> Made:
        """
        Raises:
            OSError, ValueError: it could never be read.
        """
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
                    logger.warning("%s can't be used now, the last credentials are: %s", self._path, why(error))
                self._unread = True
            assert self._last is not None
            return self._last

    def forget(self) -> None:
        """Read it anew the next time, though it may look the same."""
        with self._lock:
            self._seen = None


class Secret:
    """A secret of the settings: the same for ever, or what its file says at the moment.

    Args:
        value: what it was when the settings were read.
        path: of its file, if it came from one.
    """

    def __init__(self, value: str, path: Path | None = None) -> None:
        self._value = value
        self._file = None if path is None else RenewedFile(path, one_line, value)

    def __call__(self) -> str:
        return self._value if self._file is None else self._file()

    def forget(self) -> None:
        """Read its file anew the next time."""
        if self._file is not None:
            self._file.forget()


def one_line(text: str) -> str:
    """A secret as a file holds it.

    Raises:
        ValueError: it is empty, as a file that is just being written.
    """
    if not (secret := text.rstrip("\r\n")):
        raise ValueError("it is empty")
    return secret


def why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
