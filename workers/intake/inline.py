"""An intake without threads: the same stages, done before the call returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from workers.intake.limits import Limits
from workers.intake.stages import Stages
from workers.ports import ObjectStore
from workers.vocabulary import Fetched, Job, Picture, Transform

Answer = TypeVar("Answer")


class InlineIntake:
    """`ports.Intake` in the caller's thread: every future is done when it is handed out. For tests and tools."""

    def __init__(self, store: ObjectStore, transforms: Sequence[Transform], limits: Limits | None = None) -> None:
        self._stages = Stages(store, transforms, limits or Limits())
        self._closed = False

    def fetch(self, job: Job) -> Future[Fetched]:
        return self._done(lambda: self._stages.fetch(job))

    def decode(self, fetched: Fetched) -> Future[Picture]:
        return self._done(lambda: self._stages.decode(fetched))

    def discard(self, fetched: Fetched) -> None:
        self._stages.discard(fetched)

    def close(self) -> None:
        self._closed = True

    def _done(self, work: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        if self._closed:
            future.cancel()
            future.set_running_or_notify_cancel()
            return future
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # a future carries every error to whoever asks for its result
            future.set_exception(error)
        return future
