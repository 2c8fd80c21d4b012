"""The pipeline: what happens to a record, from top to bottom.

    take → read → lookup by source → fetch → inspect → lookup by content → decode → annotate → finish → (ledger)
    → settle

Each step is a method that says what comes next; the stages' threads and the intake's call them. A task is
in the hands of one thread at a time, handed on through a queue, a budget or a future.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from opentelemetry.trace import Span

from schemas.dead_letter import Failure, input_key
from schemas.enriched_image import SkipReason
from workers import metrics
from workers.errors import Rejected
from workers.pipeline import tracing
from workers.pipeline.annotator import Annotator
from workers.pipeline.cache_entries import NOTHING, CacheWrite
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.event_filter import EventFilter, Filtered, Removed, Skipped, Wanted, coordinates
from workers.pipeline.journal import Journal
from workers.pipeline.lookup import Lookup
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import TaskProgress
from workers.pipeline.rendering import Renderer
from workers.pipeline.stages.decode import DecodeStage
from workers.pipeline.stages.equal import EqualImages
from workers.pipeline.stages.fetch import FetchStage
from workers.pipeline.stages.stage import DeviceStage, QueueStage, Stage
from workers.pipeline.task import Task
from workers.pipeline.unread import Unread
from workers.ports import Clock, Intake
from workers.types import Assignment, Job, Outcome, Record

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Done:
    """One index whose outcomes are known without an image."""

    entry: Entry
    index: int
    outcomes: tuple[Outcome, ...]
    write: CacheWrite = NOTHING


@dataclass(frozen=True, slots=True)
class Computed:
    """A task's results, to be remembered and handed to the equal images that wait for `flight`.

    Args:
        verdict: the result is that the image is rejected.
    """

    task: Task
    values: dict[str, bytes]
    flight: Hashable | None
    verdict: Rejected | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """Entries whose commit is known, in ledger order."""

    entries: tuple[Entry, ...]


LookupItem: TypeAlias = Entry | Task | Computed | Committed


class Pipeline:
    """Every step of the pipeline, in order.

    Args:
        crash: told of an exception that is our bug; it ends the process.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        lookup: Lookup,
        annotator: Annotator,
        renderer: Renderer,
        journal: Journal,
        clock: Clock,
        options: WorkerOptions,
        crash: Callable[[BaseException], None],
    ) -> None:
        self._intake = intake
        self._lookup = lookup
        self._annotator = annotator
        self._renderer = renderer
        self._clock = clock
        self._options = options
        self._crash = crash
        self._journal = journal
        self._filter = EventFilter(options.buckets, options.key_globs, options.profiles)
        self.ledger = Ledger()
        self.progress = TaskProgress(clock)
        self.fetch = FetchStage(intake, self.progress, clock, options, endings=self, ready=self._to_lookup)
        self.decode = DecodeStage(
            intake,
            journal,
            self.progress,
            options,
            endings=self,
            inspected=self._to_lookup,
            decoded=self._to_device,
            fetch_again=self.fetch.begin,
        )
        self._equal = EqualImages(
            self._lookup.flight_key,
            self.progress,
            endings=self,
            compute=self.decode.decode,
            shared=self._to_finish,
        )
        self.unread = Unread(self._has_room)
        looking_up: QueueStage[LookupItem] = QueueStage("lookup", self.lookup, anyway=lambda: len(self.unread) > 0)
        finishing: QueueStage[Task | Done] = QueueStage(
            "finish", self._finish_all, limits_s={"finish": options.stall_timeout_s}
        )
        self.device_stage: DeviceStage[Task] = DeviceStage(
            self.annotate, clock, options.stall_timeout_s, most=lambda: annotator.safe.size
        )
        self.queue_stages: tuple[QueueStage[Any], ...] = (looking_up, self.device_stage, finishing)
        self.stages: tuple[Stage, ...] = (looking_up, self.fetch, self.decode, self.device_stage, finishing)
        self.lookup_queue, self.device_queue, self.finish_queue = (
            looking_up.queue,
            self.device_stage.queue,
            finishing.queue,
        )

    # ---- poll thread ------------------------------------------------------------------------------------------

    def take(self, record: Record) -> bool:
        """Admit a polled record. False: its assignment has ended."""
        entry = self.ledger.admit(record, self._clock.monotonic())
        if entry is None:
            return False
        self.progress.moved()
        self.lookup_queue.put(entry)
        return True

    def open(self, assignment: Assignment, offset: int) -> None:
        """A partition is ours, and read from its committed offset on."""
        self._journal.begins(assignment.partition, offset)
        self.ledger.open(assignment, offset)

    # ---- lookup thread ----------------------------------------------------------------------------------------

    def lookup(self, items: Sequence[LookupItem]) -> None:
        """Everything that concerns the cache, for all that is ready at once: few round trips for many items.

        Records are parsed as far as there is room for what they hold.
        """
        self.tell_cache(items)
        for item in items:
            if isinstance(item, Entry):
                self.unread.add(item)
        fresh = [task for entry in self.unread.readable() for task in self._read(entry)]
        arrived = [item for item in items if isinstance(item, Task)]
        fetched = [task for task in arrived if not task.inspected]
        inspected = [task for task in arrived if task.inspected]  # before any is handed on: then its facts change
        self._lookup_by_source(fresh)
        self._lookup_verdicts(fetched)
        self._lookup_by_content(inspected)

    def tell_cache(self, items: Sequence[LookupItem]) -> None:
        """What was committed and what was computed; nothing new is begun."""
        self._lookup.settle([write for item in items if isinstance(item, Committed) for write in _writes(item)])
        computed = [item for item in items if isinstance(item, Computed)]
        self._lookup.remember([item.values for item in computed])
        for item in computed:
            if item.flight is not None:
                self._equal.share(item.task, item.flight, item.verdict)

    def _has_room(self, entry: Entry) -> bool:
        return self.ledger.has_room(entry, self._options.jobs_ahead, self._options.ledger_bytes)

    def _read(self, entry: Entry) -> list[Task]:
        """Parse a record; whatever needs no image is done here."""
        filtered = self._filter.read(entry.record)
        entry.trace = tracing.inherited(entry.record.headers)
        entry.input_key = input_key(entry.record.key)
        self.ledger.expect(entry, len(filtered))
        tasks: list[Task] = []
        for index, item in enumerate(filtered):
            if coordinates(entry.record, index) in self._journal.poison:
                self._dead_letter_poison(entry, index)
            elif isinstance(item, Wanted):
                tasks.append(self._begin(entry, index, item))
            else:
                self._finish_without_image(entry, index, item)
        return tasks

    def _begin(self, entry: Entry, index: int, wanted: Wanted) -> Task:
        job = Job(coordinates(entry.record, index), entry.record.assignment, wanted.event)
        task = Task(job, entry, wanted.profile, self._span(entry, index, "annotate image"))
        self.progress.enter(task)
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
        self.finish_queue.put(Done(entry, index, (failure,)))

    def _finish_without_image(self, entry: Entry, index: int, item: Filtered) -> None:
        where = coordinates(entry.record, index)
        write = NOTHING
        outcome: Outcome
        span = self._span(entry, index, "answer without the image")
        if isinstance(item, Removed):
            outcome = self._renderer.retraction(where, item.event)
            write = self._lookup.removal(item.event)
        elif isinstance(item, Skipped):
            outcome = self._renderer.skip(where, item.event, item.reason, item.subject)
        else:
            assert isinstance(item, Failure)
            outcome = item
        tracing.end(span, "done")
        self.finish_queue.put(Done(entry, index, (outcome,), write))

    def _lookup_by_source(self, tasks: Sequence[Task]) -> None:
        self._lookup.sources(tasks)
        self._lookup.contents([task for task in tasks if task.facts is not None])
        for task in tasks:
            if task.facts is not None and self._lookup.complete(task):
                self._to_finish(task)
            else:
                self.fetch.begin(task)

    def _lookup_verdicts(self, tasks: Sequence[Task]) -> None:
        """Bytes that were rejected before are rejected again, before anything looks into them."""
        live = [task for task in tasks if self.still_wanted(task)]
        for task, verdict in zip(live, self._lookup.verdicts(live), strict=True):
            if verdict is not None:
                self.reject(task, verdict)
            else:
                self.decode.inspect(task)

    def _lookup_by_content(self, tasks: Sequence[Task]) -> None:
        live = [task for task in tasks if self.still_wanted(task)]
        self._lookup.contents(live)
        for task in live:
            if self._lookup.complete(task):
                self.let_go_of_bytes(task)
                self._to_finish(task)
            else:
                self._equal.compute_once(task)

    # ---- device thread ----------------------------------------------------------------------------------------

    def annotate(self, tasks: Sequence[Task]) -> None:
        """One batch. Those whose assignment ended are left out; a suspect runs alone."""
        live = [task for task in tasks if self.still_wanted(task)]
        for group in ([task for task in live if not task.alone], *([task] for task in live if task.alone)):
            if not group:
                continue
            for task in group:
                self.progress.move(task, "annotate")
            started = self._clock.monotonic()
            self._annotator.annotate(group)
            metrics.STAGE_SECONDS.record(self._clock.monotonic() - started, stage="annotate")
            metrics.BATCH_IMAGES.record(len(group))
            for task in group:
                self._to_finish(task)

    # ---- finish thread ----------------------------------------------------------------------------------------

    def _finish_all(self, items: Sequence[Task | Done]) -> None:
        for item in items:
            self.finish(item)

    def finish(self, item: Task | Done) -> None:
        """Turn results into outcomes, and a record's outcomes into messages once it has them all."""
        if isinstance(item, Done):
            self._complete(item)
            return
        task = item
        try:
            self._renderer.postprocess(task)
        except ValueError:
            # Not a number among the scores: the device thread runs it again, alone, with the self-test image beside it.
            task.alone = True
            self._to_device(task)
            return
        flight, values = None, self._lookup.values(task)
        if not task.failures:
            flight, task.flight = task.flight, None
        if values or flight is not None:
            self.lookup_queue.put(Computed(task, values, flight))
        self._end(task, self._renderer.outcomes(task), self._lookup.arrival(task))

    def _complete(self, done: Done) -> None:
        entry = done.entry
        entry.after_commit.append(done.write)
        outcomes = self._renderer.rendered(entry, done.index, done.outcomes)
        if not self.ledger.complete(entry, done.index, outcomes):
            return
        if not self.ledger.fill(entry, self._renderer.messages(entry)):
            metrics.DROPPED_JOBS.add(len(entry.outcomes))

    # ---- publish thread ---------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Entry]) -> None:
        """These records are committed: count them, and tell the cache."""
        now = self._clock.monotonic()
        self.progress.moved()
        if self._journal.poison:
            self._journal.settled(coordinates(entry.record, index) for entry in entries for index in entry.outcomes)
        for entry in entries:
            topic = entry.record.partition.topic
            metrics.PROCESS_SECONDS.record(
                now - entry.taken_at, **metrics.messaging("process", topic=topic, group=self._options.group)
            )
            for outcomes in entry.outcomes.values():
                self._renderer.count(outcomes)
        self.lookup_queue.put(Committed(tuple(entries)))

    def render_again(self) -> None:
        """The topics' limits may be others than when the outcomes were rendered."""
        self.ledger.refill(self._renderer.messages_again)

    # ---- any thread -------------------------------------------------------------------------------------------

    def when_done(self, task: Task, future: Future[_Result], then: Callable[[Task, Future[_Result]], None]) -> None:
        def call(done: Future[_Result]) -> None:
            try:
                then(task, done)
            except CancelledError:
                self.drop(task)
            except BaseException as error:  # noqa: BLE001  # otherwise it would be lost
                self._crash(error)

        future.add_done_callback(call)

    def still_wanted(self, task: Task) -> bool:
        if task.current:
            return True
        self.drop(task)
        return False

    def drop(self, task: Task) -> None:
        """Its assignment ended: the partition's new owner does the work. An equal image that waits takes over."""
        metrics.DROPPED_JOBS.add()
        self._close(task, "dropped")

    def refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """The intake rejects these bytes: if they alone are why, so it does for every equal image, now and later."""
        if values := self._lookup.verdict_values(sha256, error):
            flight, task.flight = task.flight, None
            self.lookup_queue.put(Computed(task, values, flight, error))
        self.reject(task, error)

    def skip(self, task: Task, reason: SkipReason) -> None:
        self._end(task, (self._renderer.skip(task.job.coordinates, task.event, reason),))

    def reject(self, task: Task, error: Rejected) -> None:
        failure = Failure(index=task.job.coordinates.index, stage=error.stage, reason=error.reason, detail=error.detail)
        self._end(task, (failure,))

    def _end(self, task: Task, outcomes: tuple[Outcome, ...], write: CacheWrite = NOTHING) -> None:
        self._close(task, "done")
        self.finish_queue.put(Done(task.entry, task.job.coordinates.index, outcomes, write))

    def _close(self, task: Task, how: str) -> None:
        """A task ends, for whatever reason: give back all that it holds, its memory before what bounds it."""
        task.image = None
        self.let_go_of_bytes(task)
        task.give_back()
        self._equal.abandon(task)
        tracing.end(task.span, how)
        self.progress.leave(task)
        self.fetch.bucket_breakers.left(task.event.bucket, task)
        self.decode.step_out(task, came_through=how == "done")

    def let_go_of_bytes(self, task: Task) -> None:
        if task.fetched is not None:
            self._intake.discard(task.fetched)
            task.fetched = None
        if task.encoded is not None:
            task.encoded.release()

    def _to_lookup(self, task: Task) -> None:
        self.progress.move(task, "lookup")
        self.lookup_queue.put(task)

    def _to_device(self, task: Task) -> None:
        self.progress.move(task, "wait-device")
        self.device_queue.put(task)

    def _to_finish(self, task: Task) -> None:
        self.progress.move(task, "finish")
        self.finish_queue.put(task)


def _writes(item: Committed) -> list[CacheWrite]:
    return [write for entry in item.entries for write in entry.after_commit]
