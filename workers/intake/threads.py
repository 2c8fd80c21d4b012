"""A thread pool that cancels its calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
            unfinished = list(self._unfinished)
        self._executor.shutdown(wait=False, cancel_futures=True)
        for future in unfinished:
            if future.cancelled():
                future.set_running_or_notify_cancel()  # the executor forgets to, and `wait` would never return

    def wait(self, seconds: float) -> None:
        """Wait for running calls, at most `seconds`."""
        with self._lock:
            unfinished = list(self._unfinished)
        wait(unfinished, seconds)

    def _finished(self, future: Future[Answer]) -> None:
        with self._lock:
            self._unfinished.discard(future)


def cancelled() -> Future[Any]:
    """A cancelled future, for a call that will not be made."""
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future
