"""An intake without threads, for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import TypeVar

from workers.intake.limits import Limits
from workers.intake.threads import Stages, cancelled
from workers.ports import ObjectStore
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
    ) -> None:
        self._stages = Stages(store, transforms, limits or Limits(), reducing_gap)
        self._closed = False

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        return self._done(lambda: self._stages.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        return self._done(lambda: self._stages.inspect(fetched))

    def decode(self, fetched: Fetched, facts: Facts) -> Future[DecodedImage]:
        return self._done(lambda: self._stages.decode(fetched, facts))

    def discard(self, fetched: Fetched) -> None:
        self._stages.discard(fetched)

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
