"""Intakes without child processes, for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import TypeVar

from workers.intake.decoding import Decoding, facts_of
from workers.intake.fetching import Fetching, encoded
from workers.intake.limits import Limits
from workers.intake.threads import Pool, cancelled
from workers.ports import ObjectStore
from workers.rendition import NO_RENDITIONS, Rendition
from workers.types import DecodedImage, Facts, Fetched, Job, Transform

Answer = TypeVar("Answer")


class InlineIntake:
    """`ports.Intake` in the caller's thread: every future is done when it is handed out."""

    def __init__(
        self,
        store: ObjectStore,
        transforms: Sequence[Transform],
        limits: Limits | None = None,
        *,
        reducing_gap: float = 0.0,
        rendition: Rendition = NO_RENDITIONS,
    ) -> None:
        self._decoding = Decoding(transforms, limits or Limits(), reducing_gap)
        self._fetching = Fetching(store, limits or Limits(), self._decoding, rendition)
        self._closed = False

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        return self._done(lambda: self._fetching.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        return self._done(lambda: facts_of(fetched, self._decoding.inspect(encoded(fetched).read())))

    def decode_bytes(self, facts: Facts, transforms: Sequence[Transform] | None = None) -> int:
        return self._decoding.decode_bytes(facts, transforms)

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        def work() -> DecodedImage:
            self.decode_bytes(facts, transforms)
            return self._decoding.decode(encoded(fetched).take(), facts.format, transforms)

        return self._done(work)

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()

    def at_work(self) -> tuple[Job | None, float]:
        return None, float("inf")

    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        """Never called: a decoder in this process could hide its lies."""

    def close(self) -> None:
        self._closed = True

    def _done(self, work: Callable[[], Answer]) -> Future[Answer]:
        if self._closed:
            return cancelled()
        future: Future[Answer] = Future()
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # a future carries every error to the caller of its result
            future.set_exception(error)
        return future


class HeldIntake(InlineIntake):
    """Its downloads end when the test says so."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, [Transform(8)])
        self.asked: list[tuple[Job, int, Future[Fetched]]] = []

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        self.asked.append((job, max_bytes, Future()))
        return self.asked[-1][-1]

    def succeed(self, number: int) -> None:
        job, _, future = self.asked[number]
        future.set_result(super().fetch(job, 1_000_000).result())


class ThreadedIntake(InlineIntake):
    """The same in a few threads of this process."""

    def __init__(self, store: ObjectStore, transforms: Sequence[Transform], limits: Limits | None = None) -> None:
        super().__init__(store, transforms, limits)
        self._pool = Pool(4, "tagstream-intake")

    def close(self) -> None:
        self._pool.stop()
        self._pool.wait(5.0)

    def _done(self, work: Callable[[], Answer]) -> Future[Answer]:
        return self._pool.submit(work)
