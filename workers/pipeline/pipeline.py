"""The straight line: what happens to a record, from top to bottom.

    take → read → lookup by source → fetch → inspect → lookup by content → decode → annotate → finish → (ledger)
    → settle

Each step is a method that says what comes next; the threads of `threads.py` and the intake's own call them. A task is
in the hands of one thread at a time, handed on through a queue, a budget or a future.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from opentelemetry.trace import Span

from schemas.dead_letter import Failure, input_key
from schemas.enriched_image import SkipReason
from workers import metrics
from workers.errors import Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.pipeline import tracing
from workers.pipeline.annotate import Annotator
from workers.pipeline.batching import StageQueue
from workers.pipeline.blame import REFUSALS, Evidence, blame
from workers.pipeline.cache_entries import NOTHING, CacheWrite
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.event_filter import EventFilter, Filtered, Removed, Skipped, Wanted, coordinates
from workers.pipeline.flow.bucket_breakers import BucketBreakers
from workers.pipeline.flow.budget import Budget, Reservation
from workers.pipeline.flow.gate import ExclusiveGate
from workers.pipeline.flow.single_flight import SingleFlight
from workers.pipeline.journal import Journal
from workers.pipeline.lookup import Lookup
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Stages, place
from workers.pipeline.rendering import Renderer
from workers.pipeline.task import Task
from workers.pipeline.unread import Unread
from workers.ports import Clock, Intake
from workers.types import Assignment, DecodedImage, Facts, Fetched, Job, Outcome, Record

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
    """Every step of the line; see the module.

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
        self._gate = ExclusiveGate()
        self._filter = EventFilter(options.buckets, options.key_globs, options.profiles)
        self._single_flight: SingleFlight[Task] = SingleFlight()
        self.ledger = Ledger()
        self.stages = Stages(clock)
        self.bucket_breakers: BucketBreakers[Task] = BucketBreakers(options.retry_min_s, options.retry_max_s)
        self.encoded = Budget(options.encoded_bytes)
        self.decoded = Budget(options.decoded_bytes)
        self.fetches = Budget(options.fetch_threads)
        self.lookup_queue: StageQueue[LookupItem] = StageQueue()
        self.unread = Unread(self._has_room)
        self.device_queue: StageQueue[Task] = StageQueue()
        self.finish_queue: StageQueue[Task | Done] = StageQueue()

    # ---- poll thread ------------------------------------------------------------------------------------------

    def take(self, record: Record) -> bool:
        """Admit a polled record. False: its assignment has ended."""
        entry = self.ledger.admit(record, self._clock.monotonic())
        if entry is None:
            return False
        self.stages.moved()
        self.lookup_queue.put(entry)
        return True

    def open(self, assignment: Assignment, offset: int) -> None:
        """A partition is ours, and read from its committed offset on."""
        self._journal.begins(assignment.partition, offset)
        self.ledger.open(assignment, offset)

    def retry_due(self) -> None:
        """Send on the tasks whose time to try again has come."""
        for task in self.bucket_breakers.due(self._clock.monotonic()):
            if task.attempts:
                metrics.RETRIES.add(dependency="s3")
            self._want_bytes(task)

    def drop_waiting(self) -> None:
        """Let go of the tasks that wait for the store and whose assignment has ended."""
        for task in self.bucket_breakers.leave_ended():
            self._drop(task)

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
            self._land(item)

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
        self.stages.enter(task)
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
                self._want_bytes(task)

    def _lookup_verdicts(self, tasks: Sequence[Task]) -> None:
        """Bytes that were rejected before are rejected again, before anything looks into them."""
        live = [task for task in tasks if self._still_wanted(task)]
        for task, verdict in zip(live, self._lookup.verdicts(live), strict=True):
            if verdict is not None:
                self._reject(task, verdict)
            else:
                self._want_facts(task)

    def _lookup_by_content(self, tasks: Sequence[Task]) -> None:
        live = [task for task in tasks if self._still_wanted(task)]
        self._lookup.contents(live)
        for task in live:
            if self._lookup.complete(task):
                self._let_go_of_bytes(task)
                self._to_finish(task)
            else:
                self._compute_once(task)

    def _compute_once(self, task: Task) -> None:
        if task.flight is not None:  # it leads already, and had to fetch its bytes again
            self._want_pixels(task)
            return
        task.flight = self._lookup.flight_key(task)
        self.stages.move(task, "wait-equal")
        if task.flight in self._single_flight:
            # A follower waits without its bytes, and must let go of them before anyone can promote it.
            self._let_go_of_bytes(task)
        if self._single_flight.join(task.flight, task):
            self._want_pixels(task)

    def _land(self, computed: Computed) -> None:
        if computed.flight is None:
            return
        leader = computed.task
        for task in self._single_flight.land(computed.flight):
            metrics.COALESCED.add()
            task.flight = None
            if computed.verdict is not None:
                self._reject(task, computed.verdict)
                continue
            task.share_results_of(leader)
            self._to_finish(task)

    # ---- intake's threads -------------------------------------------------------------------------------------

    def _want_bytes(self, task: Task) -> None:
        if not self._still_wanted(task) or self._left_alone(task):
            return
        self.stages.move(task, "wait-fetch")
        size = self._size_to_reserve(task)
        task.reference = self._reference(task)
        if task.reference is not None:
            size = max(size, task.reference.event.size or 0)
        self.encoded.reserve(
            task.job.assignment.partition, size, lambda reservation: self._want_slot(task, reservation)
        )

    def _size_to_reserve(self, task: Task) -> int:
        """What the object's size is known to be, or else the largest that is allowed."""
        size = task.event.size if task.true_size is None else task.true_size
        most = self._options.max_object_bytes
        return most if size is None else min(size, most)

    def _want_slot(self, task: Task, reservation: Reservation) -> None:
        task.encoded = reservation
        self.fetches.reserve(task.job.assignment.partition, 1, lambda slot: self._fetch(task, slot))

    def _fetch(self, task: Task, slot: Reservation) -> None:
        task.slot = slot
        if not self._still_wanted(task) or self._left_alone(task):
            return
        self.stages.move(task, "fetch")
        task.asked_at = self._clock.monotonic()
        assert task.encoded is not None
        if task.reference is None:
            self._when_done(task, self._intake.fetch(task.job, task.encoded.size), self._fetched)
        else:
            self._when_done(task, self._intake.fetch(task.reference, task.encoded.size), self._compared)

    def _reference(self, task: Task) -> Job | None:
        """What to read before this task's object, so that the answer tells whether object or store is at fault."""
        bucket = task.event.bucket
        if self.bucket_breakers.closed(bucket) and (
            not task.attempts or self.bucket_breakers.has_read(bucket, after=task.failed_at)
        ):
            return None
        return self.bucket_breakers.reference(bucket, task.event.key)

    def _compared(self, task: Task, future: Future[Fetched]) -> None:
        """Was the reference given? Else the store fails for what it gave before: the task waits, and is not blamed."""
        reference, task.reference = task.reference, None
        assert reference is not None
        bucket, now = task.event.bucket, self._clock.monotonic()
        try:
            self._intake.discard(future.result())
            self.bucket_breakers.read(bucket, reference, task.asked_at, now)
        except Unavailable as error:
            if error.fault != "object":
                self._away(task, reference, error, now)
                return
            self.bucket_breakers.forget(bucket, reference)
            self.bucket_breakers.answered(bucket, now)
        except (Gone, Superseded, LargerThanReserved, Rejected):
            self.bucket_breakers.forget(bucket, reference)
            self.bucket_breakers.answered(bucket, now)
        if self._still_wanted(task):
            assert task.encoded is not None
            self.stages.move(task, "fetch")
            task.asked_at = now
            self._when_done(task, self._intake.fetch(task.job, task.encoded.size), self._fetched)

    def _away(self, task: Task, reference: Job, error: Unavailable, now: float) -> None:
        if error.advice and error.fault in REFUSALS:
            self.bucket_breakers.refused(task.event.bucket, error.advice)
        self.bucket_breakers.reference_failed(task.event.bucket, reference, task, now)
        task.give_back()
        self._wait(task, now + self._pause(task))
        _log.warning("the object store fails for what it gave before: %s; %s waits", error.detail, place(task))

    def _left_alone(self, task: Task) -> bool:
        """Is the store left alone for now? Then the task waits, holding nothing."""
        if self.bucket_breakers.may_ask(task.event.bucket, task):
            return False
        task.give_back()
        self._wait(task, self._clock.monotonic())
        return True

    def _wait(self, task: Task, until: float) -> None:
        self.stages.move(task, "wait-store")
        self.bucket_breakers.wait(task.event.bucket, task.job.assignment, task, until=until, tries=task.attempts)

    def _fetched(self, task: Task, future: Future[Fetched]) -> None:
        now = self._clock.monotonic()
        try:
            task.fetched = future.result()
        except Unavailable as error:
            self._try_later(task, error, now)
            return
        except Gone:
            self.bucket_breakers.answered(task.event.bucket, now)
            self._end(task, (self._renderer.skip(task.job.coordinates, task.event, "gone"),))
            return
        except Superseded:
            self.bucket_breakers.answered(task.event.bucket, now)
            reason: SkipReason = "stale" if task.job.only_newest else "superseded"
            self._end(task, (self._renderer.skip(task.job.coordinates, task.event, reason),))
            return
        except LargerThanReserved as error:
            self.bucket_breakers.read(task.event.bucket, None, task.asked_at, now)
            self._reserve_more(task, error)
            return
        except Rejected as error:
            self._reject(task, error)
            return
        self.bucket_breakers.read(task.event.bucket, _as_reference(task, task.fetched), task.asked_at, now)
        if task.slot is not None:
            task.slot.release()
        if task.encoded is not None:
            task.encoded.shrink(task.fetched.size)
        task.inspected = False
        self.stages.move(task, "lookup")
        self.lookup_queue.put(task)

    def _reserve_more(self, task: Task, error: LargerThanReserved) -> None:
        """The event, or the store, understates the size. The store's word is taken once, then the largest is reserved.

        So no byte is read that nobody reserved, and no object is read more than three times.
        """
        believed = error.size if task.true_size is None else None
        task.true_size = self._options.max_object_bytes if believed is None else believed
        task.give_back()
        self._want_bytes(task)

    def _want_facts(self, task: Task) -> None:
        assert task.fetched is not None
        self.stages.move(task, "wait-inspect")
        self._step_in(task, task.fetched.inspect_bytes, self._inspect)

    def _inspect(self, task: Task) -> None:
        assert task.fetched is not None
        self.stages.move(task, "inspect")
        self._when_done(task, self._intake.inspect(task.fetched), self._inspected)

    def _inspected(self, task: Task, future: Future[Facts]) -> None:
        try:
            task.facts = future.result()
        except Rejected as error:
            assert task.fetched is not None
            self._refuse(task, task.fetched.sha256, error)
            return
        task.inspected = True
        self._step_out(task, came_through=False)
        self.stages.move(task, "lookup")
        self.lookup_queue.put(task)

    def _want_pixels(self, task: Task) -> None:
        assert task.facts is not None
        if task.fetched is None:  # promoted, after its bytes were let go
            self._want_bytes(task)
            return
        self.stages.move(task, "wait-decode")
        self._step_in(task, task.facts.decode_bytes + task.fetched.copied_bytes, self._decode)

    def _decode(self, task: Task) -> None:
        assert task.fetched is not None
        assert task.facts is not None
        self.stages.move(task, "decode")
        self._when_done(task, self._intake.decode(task.fetched, task.facts), self._decoded)

    def _step_in(self, task: Task, size: int, go: Callable[[Task], None]) -> None:
        """Before a decoder gets the image: past the gate, with so many bytes reserved, in the journal; then `go`."""
        task.alone = task.alone or task.job.coordinates in self._journal.suspects
        self._gate.enter(lambda: self._want_room(task, size, go), alone=task.alone)

    def _want_room(self, task: Task, size: int, go: Callable[[Task], None]) -> None:
        task.inside = True
        if self._still_wanted(task):
            self.decoded.reserve(
                task.job.assignment.partition, size, lambda reservation: self._note(task, reservation, go)
            )

    def _note(self, task: Task, reservation: Reservation, go: Callable[[Task], None]) -> None:
        task.decoded = reservation
        if self._still_wanted(task):
            task.in_journal = True
            self._journal.enter(task.job.coordinates)
            go(task)

    def _step_out(self, task: Task, *, came_through: bool) -> None:
        """The opposite of `_step_in`. `came_through`: no decoder and no device is going to get this image again."""
        if task.decoded is not None:
            task.decoded.release()
        if task.in_journal:
            task.in_journal = False
            self._journal.leave(task.job.coordinates, came_through=came_through)
        if task.inside:
            task.inside = False
            self._gate.leave()

    def _decoded(self, task: Task, future: Future[DecodedImage]) -> None:
        task.fetched = None
        if task.encoded is not None:
            task.encoded.release()
        try:
            task.image = future.result()
        except Rejected as error:
            assert task.facts is not None
            self._refuse(task, task.facts.sha256, error)
            return
        if task.decoded is not None:
            task.decoded.shrink(task.image.size)
        self.stages.move(task, "wait-device")
        self.device_queue.put(task)

    def _try_later(self, task: Task, error: Unavailable, now: float) -> None:
        """The store failed it: wait and try again, unless this object alone is what fails."""
        bucket = task.event.bucket
        others_read = task.attempts > 0 and self.bucket_breakers.has_read(bucket, after=task.failed_at)
        if not others_read:
            task.failing_since = task.asked_at
        task.failing_since = max(task.failing_since, self.bucket_breakers.recovered_at(bucket))
        pause = self._pause(task)
        rejection = blame(
            Evidence(
                fault=error.fault,
                said=error.detail,
                before=task.fault,
                others_read=others_read,
                failing_s=now - task.failing_since,
                next_s=pause + now - task.asked_at,
            ),
            self._options.unreadable_s,
        )
        if error.fault == "object":
            self.bucket_breakers.answered(bucket, now)
        if rejection is not None:
            self._reject(task, rejection)
            return
        if task.attempts and not others_read and error.advice and error.fault in REFUSALS:
            self.bucket_breakers.refused(bucket, error.advice)
        task.attempts += 1
        task.fault, task.failed_at = error.fault, now
        if others_read or error.fault == "object":
            self.bucket_breakers.left(bucket, task)  # a failure of its own, which says nothing of the store
        else:
            self.bucket_breakers.failed(bucket, task.event.key, task, now)
        task.give_back()  # only now: whoever gets it must know what is known of the store
        self._wait(task, now + pause)
        _log.warning("the object store fails, attempt %d: %s; %s waits", task.attempts, error.detail, place(task))

    def _pause(self, task: Task) -> float:
        ceiling = min(self._options.retry_max_s, self._options.retry_min_s * 2 ** min(task.attempts + 1, 10))
        return random.uniform(ceiling / 2, ceiling)

    # ---- device thread ----------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Images that the device takes at once, as far as they are ready."""
        return self._annotator.safe.size

    def annotate(self, tasks: Sequence[Task]) -> None:
        """One batch. Those whose assignment ended are left out; a suspect runs alone."""
        live = [task for task in tasks if self._still_wanted(task)]
        for group in ([task for task in live if not task.alone], *([task] for task in live if task.alone)):
            if not group:
                continue
            for task in group:
                self.stages.move(task, "annotate")
            started = self._clock.monotonic()
            self._annotator.annotate(group)
            metrics.STAGE_SECONDS.record(self._clock.monotonic() - started, stage="annotate")
            metrics.BATCH_IMAGES.record(len(group))
            for task in group:
                self._to_finish(task)

    # ---- finish thread ----------------------------------------------------------------------------------------

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
            self.stages.move(task, "wait-device")
            self.device_queue.put(task)
            return
        task.image = None
        task.give_back()
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
        self.stages.moved()
        if self._journal.poison:
            self._journal.settled(coordinates(entry.record, index) for entry in entries for index in entry.outcomes)
        for entry in entries:
            metrics.EVENT_SECONDS.record(now - entry.taken_at)
            for outcomes in entry.outcomes.values():
                self._renderer.count(outcomes)
        self.lookup_queue.put(Committed(tuple(entries)))

    def render_again(self) -> None:
        """The topics' limits may be others than when the outcomes were rendered."""
        self.ledger.refill(self._renderer.messages_again)

    # ---- any thread -------------------------------------------------------------------------------------------

    def _when_done(self, task: Task, future: Future[_Result], then: Callable[[Task, Future[_Result]], None]) -> None:
        def call(done: Future[_Result]) -> None:
            try:
                then(task, done)
            except CancelledError:
                self._drop(task)
            except BaseException as error:  # noqa: BLE001  # nobody else would ever hear of it
                self._crash(error)

        future.add_done_callback(call)

    def _still_wanted(self, task: Task) -> bool:
        if task.current:
            return True
        self._drop(task)
        return False

    def _drop(self, task: Task) -> None:
        """Its assignment ended: whoever has the partition now does the work. An equal image that waits takes over."""
        metrics.DROPPED_JOBS.add()
        self._let_go_of_bytes(task)
        task.image = None
        task.give_back()
        self._abandon(task)
        self._leave(task, "dropped")

    def _abandon(self, task: Task) -> None:
        if task.flight is None:
            return
        key, task.flight = task.flight, None
        while (follower := self._single_flight.abandon(key)) is not None:
            if follower.current:
                self._want_pixels(follower)
                return
            follower.flight = None
            self._drop(follower)

    def _refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """The intake rejects these bytes: if they alone are why, so it does for every equal image, now and later."""
        if values := self._lookup.verdict_values(sha256, error):
            flight, task.flight = task.flight, None
            self.lookup_queue.put(Computed(task, values, flight, error))
        self._reject(task, error)

    def _reject(self, task: Task, error: Rejected) -> None:
        failure = Failure(index=task.job.coordinates.index, stage=error.stage, reason=error.reason, detail=error.detail)
        self._end(task, (failure,))

    def _end(self, task: Task, outcomes: tuple[Outcome, ...], write: CacheWrite = NOTHING) -> None:
        self._let_go_of_bytes(task)
        task.give_back()
        self._abandon(task)
        self._leave(task, "done")
        self.finish_queue.put(Done(task.entry, task.job.coordinates.index, outcomes, write))

    def _leave(self, task: Task, how: str) -> None:
        tracing.end(task.span, how)
        self.stages.leave(task)
        self.bucket_breakers.left(task.event.bucket, task)
        self._step_out(task, came_through=how == "done")

    def _let_go_of_bytes(self, task: Task) -> None:
        if task.fetched is not None:
            self._intake.discard(task.fetched)
            task.fetched = None
        if task.encoded is not None:
            task.encoded.release()

    def _to_finish(self, task: Task) -> None:
        self.stages.move(task, "finish")
        self.finish_queue.put(task)


def _as_reference(task: Task, fetched: Fetched) -> Job:
    """The same object, as it was read: with its true size and etag."""
    event = replace(task.event, size=fetched.size, etag=fetched.etag or task.event.etag)
    return replace(task.job, event=event, only_newest=False)


def _writes(item: Committed) -> list[CacheWrite]:
    return [write for entry in item.entries for write in entry.after_commit]
