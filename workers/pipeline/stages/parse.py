"""The parse stage: parses records and creates the tasks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from opentelemetry.trace import Span

from schemas.dead_letter import Failure, input_key, only_indexes
from schemas.enriched_image import SkipReason
from schemas.image_event import BadEvent, Ignored, ImageEvent, parse_message
from schemas.options import Options, Want
from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.cache_entries import NOTHING
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.flow.byte_turns import ByteTurns
from workers.pipeline.journal import Journal
from workers.pipeline.known_results import KnownResults
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import Profile
from workers.pipeline.progress import TaskProgress
from workers.pipeline.rendering import Renderer
from workers.pipeline.stages.endings import Done
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import Removal, RemovalTask, Task
from workers.rendition import NO_RENDITIONS, Rendition
from workers.types import Assignment, Coordinates, Job, Outcome, Record


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event to enrich, with its profile."""

    event: ImageEvent
    profile: Profile


@dataclass(frozen=True, slots=True)
class Removed:
    event: ImageEvent


@dataclass(frozen=True, slots=True)
class Skipped:
    reason: SkipReason
    event: ImageEvent | None = None
    subject: str | None = None


Filtered: TypeAlias = Wanted | Removed | Skipped | Failure


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Decides for each event whether the worker processes it.

    Args:
        buckets: allowed buckets; empty: all.
        key_globs: patterns of the keys to process; empty: all.
        profiles: all profiles by name, with one named `default`.
        sample: share of the objects to process, 0 to 1.
        want: results for an event without the option `want`.
        rendition: events of renditions are skipped.
    """

    buckets: tuple[str, ...]
    key_globs: tuple[str, ...]
    profiles: Mapping[str, Profile]
    sample: float = 1.0
    want: tuple[Want, ...] = Options().want
    rendition: Rendition = NO_RENDITIONS

    def read(self, record: Record) -> list[Filtered]:
        """Parse a record; returns the decision for each of its events, in order."""
        if (why := record.unreadable) is not None:
            return [Failure(index=0, stage="parse", reason=why.reason, detail=why.detail)]
        parsed = parse_message(
            record.value,
            record.headers,
            topic=record.partition.topic,
            partition=record.partition.number,
            offset=record.offset,
        )
        replayed = only_indexes(record.headers)
        return [
            Skipped("not-replayed") if replayed is not None and index not in replayed else self._judge(item)
            for index, item in enumerate(parsed)
        ]

    def _judge(self, item: ImageEvent | Ignored | BadEvent) -> Filtered:
        if isinstance(item, BadEvent):
            return Failure(index=item.index, stage="parse", reason=item.reason, detail=item.detail)
        if isinstance(item, Ignored):
            return Skipped(item.reason, subject=item.subject)
        if self.buckets and item.bucket not in self.buckets:
            detail = f"bucket {item.bucket!r} is not in TAGSTREAM_BUCKETS"
            return Failure(index=item.index, stage="parse", reason="bucket-not-allowed", detail=detail)
        if self.rendition.makes(item.bucket, item.key):
            return Skipped("rendition", item)
        if self.key_globs and not any(fnmatchcase(item.key, glob) for glob in self.key_globs):
            return Skipped("key-not-matched", item)
        if self.sample < 1 and not sampled(item.subject, self.sample):
            return Skipped("not-sampled", item)
        if item.action == "retract":
            return Removed(item)
        profile = self.profiles.get(item.options.profile or "default")
        if profile is None:
            detail = f"there is no threshold profile {item.options.profile!r}"
            return Failure(index=item.index, stage="parse", reason="unknown-profile", detail=detail)
        return Wanted(self._resolved(item), profile)

    def _resolved(self, event: ImageEvent) -> ImageEvent:
        options = event.options
        if options.want == self.want or "want" in options.model_fields_set:
            return event
        return replace(event, options=options.model_copy(update={"want": self.want}))


def sampled(subject: str, share: float) -> bool:
    """Whether the sample of this share contains the object. Larger samples contain smaller ones."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) < share * 2**64


_log = logging.getLogger(__name__)

_BACKLOG = 1_000
"""If this many records wait in this thread's queue, no record is admitted."""


@dataclass(eq=False)
class ParseStage(QueueStage):
    """Parses records while the ledger has room. Partitions take turns by bytes.

    A record may contain 1,000 events, and only parsing tells how many. So records without room wait unparsed.
    """

    ledger: Ledger
    journal: Journal
    renderer: Renderer
    results: KnownResults
    progress: TaskProgress
    options: WorkerOptions
    lookup: Callable[[Sequence[Task]], None] = field(init=False)
    """Continues with tasks that may need their image."""
    check_removal: Callable[[RemovalTask], None] = field(init=False)
    done: Callable[[Done], None] = field(init=False)
    """Takes the outcome of an event that needs no image."""

    def __post_init__(self) -> None:
        ledger, options = self.ledger, self.options
        super().__init__("parse", bool(options.background))
        self._filter = EventFilter(
            options.buckets, options.key_globs, options.profiles, options.sample, options.want, options.rendition
        )
        self.unread = ByteTurns[Entry](lambda entry: ledger.has_room(entry, options.jobs_ahead, options.ledger_bytes))
        self.entries: StageQueue[Entry] = self._lane_queue(self._add, lambda entry: entry.record.assignment.background)

    def holds_back(self, assignment: Assignment) -> bool:
        if assignment.background and self.progress.live_waits(self.options.decoders):
            return True
        return len(self) >= _BACKLOG

    def work(self) -> None:
        super().work()
        if dropped := self.unread.drop_ended():  # the partition's next owner parses them
            metrics.DROPPED_JOBS.add(dropped)
        read = [self._read(entry) for entry in self.unread.round()]
        if tasks := [task for each in read for task in each]:
            self.lookup(tasks)
        if read:
            self.wake()  # new records take part in the next round

    def _add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.unread.add(entry.record.assignment, entry, entry.record.size)

    def _read(self, entry: Entry) -> list[Task]:
        filtered = self._filter.read(entry.record)
        # Equal records share one dead letter if all their events failed. Otherwise each record gets its own entry.
        one_dead_letter = all(isinstance(item, Failure) for item in filtered) and not self.journal.poison
        if entry.repeats and not one_dead_letter and (rest := self.ledger.split(entry)) is not None:
            self.unread.add(rest.record.assignment, rest, rest.record.size, first=True)
        inherited = tracing.inherited(entry.record.headers)
        entry.trace, entry.tracestate = inherited[:1], inherited[1:]
        entry.input_key = input_key(entry.record.key)
        entry.added = sum([len(item.event.options.results) for item in filtered if isinstance(item, Wanted)])
        self.ledger.expect(entry, len(filtered))
        tasks: list[Task] = []
        removed: dict[str, tuple[Task, list[Removal]]] = {}
        for index, item in enumerate(filtered):
            if self.journal.poison and entry.where(index) in self.journal.poison:
                self._dead_letter_poison(entry, index)
            elif isinstance(item, Wanted):
                tasks.append(self._begin(entry, index, item, "annotate image"))
            elif isinstance(item, Removed) and not item.event.versioned_removal:
                self._begin_removal(removed, entry, index, item.event)
            else:
                self._finish_without_image(entry, index, item)
        for task, removals in removed.values():
            self.check_removal(RemovalTask(task, removals))
        return tasks

    def _begin_removal(
        self, removed: dict[str, tuple[Task, list[Removal]]], entry: Entry, index: int, event: ImageEvent
    ) -> None:
        """Add a removal event to the task of its object."""
        name = "look for the removed object"
        if event.subject not in removed:
            wanted = Wanted(event, self.options.profiles["default"])
            removed[event.subject] = self._begin(entry, index, wanted, name), []
        else:
            tracing.end(self._span(entry, entry.where(index), name), "done")
        removed[event.subject][1].append(Removal(index, event, self.results.removal(event)))

    def _begin(self, entry: Entry, index: int, wanted: Wanted, name: str) -> Task:
        job = Job(entry.where(index), entry.record.assignment, wanted.event)
        task = Task(job, entry, wanted.profile, self._span(entry, job.coordinates, name))
        tracing.tell_event(task.span, wanted.event)
        _log.debug("%s is admitted", task)
        task.hold("span", lambda: tracing.end(task.span, task.ending))
        self.progress.enter(task)
        return task

    def _span(self, entry: Entry, where: Coordinates, name: str) -> Span:
        """Start the span of an event; its outcomes inherit the trace headers."""
        span = tracing.start(name, where, entry.trace)
        if carried := tracing.headers_of(span):
            entry.traces[where.index] = carried
        return span

    def _dead_letter_poison(self, entry: Entry, index: int) -> None:
        failure = Failure(
            index=index, stage="annotate", reason="kills-worker", detail="the process died twice with it alone in hand"
        )
        self.done(Done(entry, index, (failure,)))

    def _finish_without_image(self, entry: Entry, index: int, item: Filtered) -> None:
        where = entry.where(index)
        write = NOTHING
        outcome: Outcome
        span = self._span(entry, where, "answer without the image")
        about: Coordinates | Job = where
        if isinstance(item, Removed | Skipped) and item.event is not None:
            tracing.tell_event(span, item.event)
            about = Job(where, entry.record.assignment, item.event)
        if isinstance(item, Removed):
            outcome = self.renderer.retraction(where, item.event, entry.record.timestamp_ms)
            write = self.results.removal(item.event)
        elif isinstance(item, Skipped):
            outcome = self.renderer.skip(where, item.event, item.reason, item.subject)
        else:
            assert isinstance(item, Failure)
            outcome = item
        tracing.end(span, "done")
        _log.debug("%s is answered without the image: %s", about, type(item).__name__)
        self.done(Done(entry, index, (outcome,), write))
