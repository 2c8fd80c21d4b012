"""The parse stage: from a record to a task for each of its events, and the outcomes of those that need no image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from opentelemetry.trace import Span

from schemas.dead_letter import Failure, input_key
from schemas.image_event import ImageEvent
from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.cache_entries import NOTHING
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.event_filter import EventFilter, Filtered, Removed, Skipped, Wanted, coordinates
from workers.pipeline.flow.byte_turns import ByteTurns
from workers.pipeline.flow.queue import StageQueue
from workers.pipeline.journal import Journal
from workers.pipeline.known_results import KnownResults
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import TaskProgress
from workers.pipeline.rendering import Renderer
from workers.pipeline.stages.endings import Done
from workers.pipeline.stages.stage import QueueStage
from workers.pipeline.task import Removal, RemovalTask, Task
from workers.types import Assignment, Coordinates, Job, Outcome

_log = logging.getLogger(__name__)

_BACKLOG = 1_000
"""Records before this thread beyond which no other is admitted."""


class ParseStage(QueueStage):
    """Parses records while there is room; partitions take turns by bytes.

    One message may hold a thousand events, which is unknown before it is read.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        renderer: Renderer,
        results: KnownResults,
        progress: TaskProgress,
        options: WorkerOptions,
    ) -> None:
        super().__init__("parse")
        self._ledger = ledger
        self._journal = journal
        self._renderer = renderer
        self._results = results
        self._progress = progress
        self._options = options
        self._filter = EventFilter(options.buckets, options.key_globs, options.profiles, options.sample, options.want)
        self.unread = ByteTurns[Entry](self._has_room)
        self.entries: StageQueue[Entry] = self._queue(self._add)

    def then(
        self,
        *,
        wanted: Callable[[Sequence[Task]], None],
        removed: Callable[[RemovalTask], None],
        done: Callable[[Done], None],
    ) -> None:
        """Say what comes next.

        Args:
            wanted: takes the tasks of all that was read at once.
            removed: takes a task whose object is gone by its events' word.
            done: takes what is known of an event without its image.
        """
        self._wanted, self._removed, self._done = wanted, removed, done

    def holds_back(self, assignment: Assignment) -> bool:
        return len(self) >= _BACKLOG

    def work(self) -> None:
        super().work()
        if dropped := self.unread.drop_ended():  # the partition's new owner reads them
            metrics.DROPPED_JOBS.add(dropped)
        read = [self._read(entry) for entry in self.unread.round()]
        if tasks := [task for each in read for task in each]:
            self._wanted(tasks)
        if read:
            self.wake()  # what comes meanwhile takes part in the next round

    def _add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.unread.add(entry.record.assignment, entry, entry.record.size)

    def _has_room(self, entry: Entry) -> bool:
        return self._ledger.has_room(entry, self._options.jobs_ahead, self._options.ledger_bytes)

    def _read(self, entry: Entry) -> list[Task]:
        filtered = self._filter.read(entry.record)
        refused = all(isinstance(item, Failure) for item in filtered) and not self._journal.poison
        if entry.repeats and not refused and (rest := self._ledger.split(entry)) is not None:
            self.unread.put_back(rest.record.assignment, rest, rest.record.size)
        inherited = tracing.inherited(entry.record.headers)
        entry.trace, entry.tracestate = inherited[:1], inherited[1:]
        entry.input_key = input_key(entry.record.key)
        self._ledger.expect(entry, len(filtered))
        tasks: list[Task] = []
        removed: dict[str, tuple[Task, list[Removal]]] = {}
        for index, item in enumerate(filtered):
            if coordinates(entry.record, index) in self._journal.poison:
                self._dead_letter_poison(entry, index)
            elif isinstance(item, Wanted):
                tasks.append(self._begin(entry, index, item, "annotate image"))
            elif isinstance(item, Removed) and not item.event.versioned_removal:
                self._begin_removal(removed, entry, index, item.event)
            else:
                self._finish_without_image(entry, index, item)
        for task, removals in removed.values():
            self._removed(RemovalTask(task, removals))
        return tasks

    def _begin_removal(
        self, removed: dict[str, tuple[Task, list[Removal]]], entry: Entry, index: int, event: ImageEvent
    ) -> None:
        """Let the store be asked whether the object is gone: once for all events of a message that say so."""
        name = "look for the removed object"
        if event.subject not in removed:
            wanted = Wanted(event, self._options.profiles["default"])
            removed[event.subject] = self._begin(entry, index, wanted, name), []
        else:
            tracing.end(self._span(entry, index, name), "done")
        removed[event.subject][1].append(Removal(index, event, self._results.removal(event)))

    def _begin(self, entry: Entry, index: int, wanted: Wanted, name: str) -> Task:
        job = Job(coordinates(entry.record, index), entry.record.assignment, wanted.event)
        task = Task(job, entry, wanted.profile, self._span(entry, index, name))
        tracing.tell_event(task.span, wanted.event)
        _log.debug("%s is taken", task)
        task.hold("span", lambda: tracing.end(task.span, task.ending))
        self._progress.enter(task)
        return task

    def _span(self, entry: Entry, index: int, name: str) -> Span:
        """Begin an event's span, and let its outcomes carry it."""
        span = tracing.start(name, coordinates(entry.record, index), entry.trace)
        if carried := tracing.headers_of(span):
            entry.traces[index] = carried
        return span

    def _dead_letter_poison(self, entry: Entry, index: int) -> None:
        """Twice the process died with this image alone in hand."""
        failure = Failure(
            index=index, stage="annotate", reason="kills-worker", detail="the process died twice with it alone in hand"
        )
        self._done(Done(entry, index, (failure,)))

    def _finish_without_image(self, entry: Entry, index: int, item: Filtered) -> None:
        where = coordinates(entry.record, index)
        write = NOTHING
        outcome: Outcome
        span = self._span(entry, index, "answer without the image")
        about: Coordinates | Job = where
        if isinstance(item, Removed | Skipped) and item.event is not None:
            tracing.tell_event(span, item.event)
            about = Job(where, entry.record.assignment, item.event)
        if isinstance(item, Removed):
            outcome = self._renderer.retraction(where, item.event, entry.record.timestamp_ms)
            write = self._results.removal(item.event)
        elif isinstance(item, Skipped):
            outcome = self._renderer.skip(where, item.event, item.reason, item.subject)
        else:
            assert isinstance(item, Failure)
            outcome = item
        tracing.end(span, "done")
        _log.debug("%s is answered without the image: %s", about, type(item).__name__)
        self._done(Done(entry, index, (outcome,), write))
