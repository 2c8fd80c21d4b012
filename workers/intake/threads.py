"""The intake without child processes, and the threads of all intakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from workers.errors import Rejected
from workers.intake.decoding import Decoding, facts_of
from workers.intake.fetching import Fetching, encoded
from workers.intake.limits import Limits
from workers.intake.turns import Turns
from workers.ports import ObjectStore
from workers.types import DecodedImage, Facts, Fetched, Job, Partition, Transform

Answer = TypeVar("Answer")


class Pool:
    """A thread pool whose `stop` cancels calls, waiting and later ones. Thread-safe.

    Args:
        threads: how many calls run at the same time.
        name: of the threads.
    """

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
        """Take no more calls and cancel waiting ones; running ones go on."""
        with self._lock:
            self._stopped = True
            unfinished = list(self._unfinished)
        self._executor.shutdown(wait=False, cancel_futures=True)
        for future in unfinished:
            if future.cancelled():
                future.set_running_or_notify_cancel()  # the executor forgets to, and a waiter would wait for ever

    def wait(self, seconds: float) -> None:
        """Wait for running calls, at most so long."""
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


class Stages:
    """Fetch, inspect, decode. Thread-safe; holds no bytes of its own.

    Args:
        store: where the objects are.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its image may be.
        reducing_gap: as in `geometry.scale_of`.
    """

    def __init__(
        self, store: ObjectStore, transforms: Sequence[Transform], limits: Limits, reducing_gap: float = 0.0
    ) -> None:
        self._decoding = Decoding(transforms, limits, reducing_gap)
        self._fetching = Fetching(store, limits, self._decoding)

    def fetch(self, job: Job, max_bytes: int) -> Fetched:
        """Errors as in `ports.Intake.fetch`."""
        return _light(lambda: self._fetching.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Facts:
        """Errors as in `ports.Intake.inspect`.

        Raises:
            Broken: the header of an image known to be good can't be read either.
        """
        return _light(lambda: facts_of(fetched, self._decoding.inspect(encoded(fetched).read())))

    def decode(self, fetched: Fetched, facts: Facts) -> DecodedImage:
        """Errors as in `ports.Intake.decode`.

        Raises:
            Broken: an image known to be good can't be decoded either.
        """
        return _light(lambda: self._decoding.decode(encoded(fetched).take(), facts.format))

    def check(self, name: str | None) -> None:
        """As `Decoding.check`."""
        self._decoding.check(name)

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()


def _light(work: Callable[[], Answer]) -> Answer:
    """Call `work`; raise its rejection without frames, which hold an image's bytes."""
    try:
        return work()
    except Rejected as error:
        error.__cause__ = error.__context__ = None
        light = error.with_traceback(None)
    raise light


class ThreadIntake:
    """`ports.Intake` in threads of this process.

    It can't stop a decoder that hangs, nor survive one that crashes, and a decoder that is taken over by the image it
    reads has all that this process has: for those promises decode in child processes. Objects are fetched in the order
    of the calls; partitions are inspected and decoded in turn. A call after `close`, and one that `close` found
    waiting, has a cancelled future.

    Args:
        store: where the objects are; its pool should allow `fetch_threads` connections.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its image may be.
        fetch_threads: GETs at the same time.
        decode_threads: images being inspected or decoded at the same time; more than cores gain nothing.
        reducing_gap: as in `geometry.scale_of`.
        close_s: how long `close` waits for what runs.
    """

    form = "threads"
    caveat = "they are no boundary for a codec that an image takes over"
    """For people: what this form does not protect from; empty: nothing."""

    def __init__(
        self,
        store: ObjectStore,
        transforms: Sequence[Transform],
        limits: Limits | None = None,
        *,
        fetch_threads: int = 16,
        decode_threads: int = 2,
        reducing_gap: float = 0.0,
        close_s: float = 5.0,
    ) -> None:
        self._stages = Stages(store, transforms, limits or Limits(), reducing_gap)
        self._fetchers = Pool(fetch_threads, "tagstream-fetch")
        self._decoders = _InTurn(decode_threads, "tagstream-decode")
        self._close_s = close_s

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        return self._fetchers.submit(lambda: self._stages.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        return self._decoders.submit_for(fetched.job, lambda: self._stages.inspect(fetched))

    def decode(self, fetched: Fetched, facts: Facts) -> Future[DecodedImage]:
        return self._decoders.submit_for(fetched.job, lambda: self._stages.decode(fetched, facts))

    def discard(self, fetched: Fetched) -> None:
        self._stages.discard(fetched)

    def at_work(self) -> tuple[Job | None, float]:
        return self._decoders.at_work()

    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        """Never called: a decoder in this process could hide its lies."""

    def check(self) -> Future[None]:
        """Decode the self-test image of every allowed format; Broken if one fails."""
        return self._decoders.submit_for(None, lambda: self._stages.check(None))

    def close(self) -> None:
        until = time.monotonic() + self._close_s
        pools = self._fetchers, self._decoders
        for pool in pools:
            pool.stop()
        for pool in pools:
            pool.wait(max(0.0, until - time.monotonic()))


class _InTurn(Pool):
    """Threads for which partitions take turns. Thread-safe."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._turns: Turns[tuple[Job | None, Future[Any], Callable[[], Any]]] = Turns()
        self._turning = threading.Lock()
        self._running: dict[Future[Any], tuple[Job | None, float]] = {}
        self._idle_since = time.monotonic()

    def submit_for(self, job: Job | None, work: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        with self._turning:
            self._turns.add(_partition_of(job), (job, future, work))
        if self.submit(self._run_next).cancelled():
            self._drop()
        return future

    def stop(self) -> None:
        super().stop()
        self._drop()

    def at_work(self) -> tuple[Job | None, float]:
        with self._turning:
            job, since = next(iter(self._running.values()), (None, self._idle_since))
        return job, time.monotonic() - since

    def _drop(self) -> None:
        with self._turning:
            dropped = list(self._turns.drain())
        for _, future, _ in dropped:
            future.cancel()
            future.set_running_or_notify_cancel()

    def _run_next(self) -> None:
        with self._turning:
            if self._turns.next() is None:  # dropped meanwhile
                return
            job, future, work = self._turns.take()
            began = time.monotonic()
            self._running[future] = job, began
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # a future carries every error to the caller of its result
            future.set_exception(error)
        with self._turning:
            del self._running[future]
            self._idle_since = time.monotonic()
            self._turns.took(_partition_of(job), self._idle_since - began)


def _partition_of(job: Job | None) -> Partition | None:
    return None if job is None else job.assignment.partition
