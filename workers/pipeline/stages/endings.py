"""Ends tasks with their outcomes, or drops them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Literal, TypeVar

from schemas.dead_letter import Failure
from schemas.enriched_image import SkipReason
from workers import metrics
from workers.errors import Rejected
from workers.pipeline.cache_entries import NOTHING, CacheWrite
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.rendering import Renderer
from workers.pipeline.task import Removal, Task
from workers.types import Outcome

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done:
    """The outcomes of one event."""

    entry: Entry
    index: int
    outcomes: tuple[Outcome, ...]
    write: CacheWrite = NOTHING


class Endings:
    """Ends tasks: gives back their resources, and passes their outcomes on. Thread-safe.

    Args:
        crash: ends the process after an unexpected exception.
    """

    done: Callable[[Done], None]
    fetch: Callable[[Task], None]
    """Reads the original of a task with a useless rendition."""

    def __init__(self, renderer: Renderer, crash: Callable[[BaseException], None]) -> None:
        self._renderer = renderer
        self._crash = crash

    def still_wanted(self, task: Task) -> bool:
        """Whether the task's assignment is current; if not, the task is dropped."""
        if task.current:
            return True
        self.drop(task)
        return False

    def drop(self, task: Task) -> None:
        """End a task of an ended assignment, without an outcome."""
        metrics.DROPPED_JOBS.add()
        _log.debug("%s is dropped: its partition was revoked", task)
        task.close("dropped")

    def end(self, task: Task, outcomes: tuple[Outcome, ...]) -> None:
        self.done(self.ended(task, outcomes))

    def ended(self, task: Task, outcomes: tuple[Outcome, ...], write: CacheWrite = NOTHING) -> Done:
        """As `end`, but the caller passes the outcomes on."""
        task.close("done")
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s is done: %s, after %s ms", task, "; ".join(map(_described, outcomes)), task.timings_ms)
        return Done(task.entry, task.job.coordinates.index, outcomes, write)

    def skip(self, task: Task, reason: SkipReason) -> None:
        self.end(task, (self._renderer.skip(task.job.coordinates, task.event, reason),))

    def stale(self, task: Task, removals: Sequence[Removal]) -> None:
        """End removal events with the skip `stale`: the object exists."""
        task.close("done")
        _log.debug("%s is done: stale", task)
        for said in removals:
            where = task.entry.where(said.index)
            self.done(Done(task.entry, said.index, (self._renderer.skip(where, said.event, "stale"),)))

    def retract(self, task: Task, removals: Sequence[Removal], date: str | None = None) -> None:
        """End removal events with a retraction: the object is gone.

        Args:
            date: date of the store's response; None: the store did not answer.
        """
        task.close("done")
        _log.debug("%s is done: gone", task)
        record = task.entry.record
        for said in removals:
            outcome = self._renderer.retraction(task.entry.where(said.index), said.event, record.timestamp_ms, date)
            self.done(Done(task.entry, said.index, (outcome,), said.write))

    def reject(self, task: Task, error: Rejected) -> None:
        """End a task with a dead letter; one that read a rendition goes on with its original."""
        if task.reads_copy:
            self.read_original(task, "broken")
            return
        failure = Failure(index=task.job.coordinates.index, stage=error.stage, reason=error.reason, detail=error.detail)
        self.end(task, (failure,))

    def read_original(self, task: Task, why: Literal["broken", "shape"]) -> None:
        """Continue with the original: the rendition is useless."""
        metrics.RENDITIONS.add(answer=why)
        _log.debug("%s goes on with the original: its rendition is of no use (%s)", task, why)
        task.begin_again()
        self.fetch(task)

    def when_done(self, task: Task, future: Future[Result], then: Callable[[Future[Result]], None]) -> None:
        """Call `then` when the future is done.

        A cancelled future drops the task. An unexpected error ends the process.
        """

        def call(done: Future[Result]) -> None:
            try:
                then(done)
            except CancelledError:
                self.drop(task)
            except BaseException as error:  # noqa: BLE001  # otherwise the error would be lost
                self._crash(error)

        future.add_done_callback(call)


def _described(outcome: Outcome) -> str:
    if isinstance(outcome, Failure):
        return f"dead letter, {outcome.reason} in {outcome.stage}: {outcome.detail}"
    return f"{outcome.kind} {outcome.reason}".strip()
