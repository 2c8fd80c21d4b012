"""Large images of several processes that share memory: one at a time is decoded."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any


class LargeImages:
    """Has one process at a time decode a large image. Thread-safe.

    Args:
        above: bytes that decoding may take without the lock.
    """

    def __init__(self, lock: Path, above: int) -> None:
        self.above = above
        self._file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn = threading.Lock()
        self._waiting: set[Future[Any]] = set()

    @property
    def waiting(self) -> bool:
        """Whether an image waits for the lock."""
        return bool(self._waiting)

    def decode(self, future: Future[Any], submit: Callable[[], None]) -> None:
        """Call `submit` on another thread once the lock is held.

        The lock is released when `future` is done.
        """
        self._waiting.add(future)
        threading.Thread(target=self._in_turn, args=(future, submit), name="large-image", daemon=True).start()

    def _in_turn(self, future: Future[Any], submit: Callable[[], None]) -> None:
        with self._turn:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._waiting.discard(future)
                submit()
                wait([future])
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
