"""The threaded intake: GETs in one pool of threads, decoding in another, off the interpreter lock in C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from workers.intake.limits import Limits
from workers.intake.stages import Stages
from workers.ports import ObjectStore
from workers.vocabulary import Fetched, Job, Picture, Transform

Answer = TypeVar("Answer")


class ThreadIntake:
    """`ports.Intake` in threads of this process.

    It can't stop a decoder that hangs, nor survive one that crashes: for those promises decode in child processes.
    Work is started in the order of the calls. A call after `close`, and one that `close` found waiting, has a
    cancelled future.

    Args:
        store: where the objects are; its pool should allow `fetch_threads` connections.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its picture may be.
        fetch_threads: GETs at the same time.
        decode_threads: pictures being decoded at the same time; more than cores gain nothing.
        close_s: how long `close` waits for what runs.
    """

    def __init__(
        self,
        store: ObjectStore,
        transforms: Sequence[Transform],
        limits: Limits | None = None,
        *,
        fetch_threads: int = 16,
        decode_threads: int = 2,
        close_s: float = 5.0,
    ) -> None:
        self._stages = Stages(store, transforms, limits or Limits())
        self._fetchers = ThreadPoolExecutor(fetch_threads, "tagstream-fetch")
        self._decoders = ThreadPoolExecutor(decode_threads, "tagstream-decode")
        self._close_s = close_s
        self._lock = threading.Lock()
        self._closed = False
        self._unfinished: set[Future[Any]] = set()

    def fetch(self, job: Job) -> Future[Fetched]:
        return self._submit(self._fetchers, lambda: self._stages.fetch(job))

    def decode(self, fetched: Fetched) -> Future[Picture]:
        return self._submit(self._decoders, lambda: self._stages.decode(fetched))

    def discard(self, fetched: Fetched) -> None:
        self._stages.discard(fetched)

    def check(self) -> Future[None]:
        """Decode a picture known to be good of every format that is taken; Broken if it can't be done here."""
        return self._submit(self._decoders, lambda: self._stages.check(None))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            unfinished = list(self._unfinished)
        for pool in (self._fetchers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)
        for future in unfinished:
            if future.cancelled():
                future.set_running_or_notify_cancel()  # the pool forgets to, and whoever waits would wait for ever
        wait(unfinished, self._close_s)

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[[], Answer]) -> Future[Answer]:
        with self._lock:
            if self._closed:
                return _cancelled()
            future = pool.submit(work)
            self._unfinished.add(future)
        future.add_done_callback(self._finished)
        return future

    def _finished(self, future: Future[Answer]) -> None:
        with self._lock:
            self._unfinished.discard(future)


def _cancelled() -> Future[Answer]:
    future: Future[Answer] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future
