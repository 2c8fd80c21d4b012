"""Threads of an intake: a pool that cancels its calls, and turns for large images."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Pool:
    """A thread pool; `stop` cancels waiting and later calls. Thread-safe."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._stopped = False
        self._unfinished: set[Future[Any]] = set()

    def submit(self, work: Callable[[], Answer]) -> Future[Answer]:
        with self._lock:
            if self._stopped:
                return cancelled()
            future = self._executor.submit(work)
            self._unfinished.add(future)
        future.add_done_callback(self._finished)
        return future

    def stop(self) -> None:
        """Refuse later calls and cancel waiting ones; running calls continue."""
        with self._lock:
            self._stopped = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def wait(self, seconds: float) -> None:
        """Wait for running calls, at most `seconds`. Call it after `stop`."""
        wait(self._unfinished.copy(), seconds)

    def _finished(self, future: Future[Any]) -> None:
        self._unfinished.discard(future)
        if future.cancelled():
            future.set_running_or_notify_cancel()  # the executor forgets to, and a waiter would wait for ever


def cancelled() -> Future[Any]:
    """A cancelled future, for a call that will not be made."""
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


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
        """Call `submit` on another thread once the lock is held. The lock is released when `future` is done."""
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
