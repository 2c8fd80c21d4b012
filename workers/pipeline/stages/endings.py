"""What a stage may ask of the pipeline when a task does not simply go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from schemas.enriched_image import SkipReason
from workers.errors import Rejected
from workers.pipeline.task import Task

Result = TypeVar("Result")


class Endings(Protocol):
    """How a task ends before its last stage. Any thread."""

    def still_wanted(self, task: Task) -> bool:
        """Whether its assignment goes on; if not, the task is dropped here."""
        ...

    def drop(self, task: Task) -> None:
        """Its assignment ended: the partition's new owner does the work."""
        ...

    def let_go_of_bytes(self, task: Task) -> None:
        """It does not need its encoded bytes any more, or not for now."""
        ...

    def skip(self, task: Task, reason: SkipReason) -> None:
        """It needs no work."""
        ...

    def reject(self, task: Task, error: Rejected) -> None:
        """It becomes a dead letter."""
        ...

    def refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """The intake rejects these bytes: if they alone are why, so it does for every equal image, now and later."""
        ...

    def when_done(self, task: Task, future: Future[Result], then: Callable[[Task, Future[Result]], None]) -> None:
        """Call `then` with the future's end; a cancelled one drops the task, a bug in `then` ends the process."""
        ...
