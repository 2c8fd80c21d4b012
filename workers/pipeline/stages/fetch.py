"""The fetch stage: gets objects from the store, and judges whether an object or the store is at fault when it can't.

It owns what bounds it (bytes as fetched, GETs at the same time), the breakers of the buckets, and the tasks that wait
for the store.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace

from schemas.enriched_image import SkipReason
from workers import metrics
from workers.errors import Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.blame import REFUSALS, Evidence, blame
from workers.pipeline.flow.bucket_breakers import BucketBreakers
from workers.pipeline.flow.budget import Budget, Reservation
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import Stage
from workers.pipeline.task import Task
from workers.ports import Clock, Intake
from workers.types import Assignment, Fetched, Job

_log = logging.getLogger(__name__)


class FetchStage(Stage):
    """Gets the object of each task from the store.

    Args:
        fetched: takes a task whose bytes are there.
    """

    places = (Place("wait-fetch"), Place("fetch", works=True), Place("wait-store", waits_on_others=True))

    def __init__(
        self,
        intake: Intake,
        progress: TaskProgress,
        clock: Clock,
        options: WorkerOptions,
        *,
        endings: Endings,
        fetched: Callable[[Task], None],
    ) -> None:
        self._intake = intake
        self._progress = progress
        self._clock = clock
        self._options = options
        self._endings = endings
        self._when_fetched = fetched
        self.bucket_breakers: BucketBreakers[Task] = BucketBreakers(options.retry_min_s, options.retry_max_s)
        self.encoded = Budget(options.encoded_bytes)
        self.slots = Budget(options.fetch_threads)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        return {"encoded": self.encoded}

    def divide(self, partitions: int) -> None:
        super().divide(partitions)
        self.slots.divide(partitions)

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"fetch": self._options.stall_timeout_s + self._options.get_timeout_s}

    def unready(self) -> list[str]:
        return self.bucket_breakers.refusals()

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        return {metrics.BREAKERS: self._breakers}

    def _breakers(self) -> list[Reading]:
        counts = self.bucket_breakers.breakers()
        return [(count, {"dependency": "s3", "state": state}) for state, count in counts.items()]

    def holds_back(self, assignment: Assignment) -> bool:
        return self.bucket_breakers.holds_back(assignment)

    def poll(self) -> None:
        for task in self.bucket_breakers.due(self._clock.monotonic()):
            if task.tries.failed:
                metrics.RETRIES.add(dependency="s3")
            self.begin(task)

    def drop_ended(self) -> None:
        for task in self.bucket_breakers.leave_ended():
            self._endings.drop(task)

    def begin(self, task: Task) -> None:
        """Fetch the task's object, as soon as there is room for it and its store may be asked."""
        if not self._endings.still_wanted(task) or self._left_alone(task):
            return
        self._progress.move(task, "wait-fetch")
        size = self._size_to_reserve(task)
        task.tries.reference = self._reference(task)
        if task.tries.reference is not None:
            size = max(size, task.tries.reference.event.size or 0)
        self.encoded.reserve(
            task.job.assignment.partition, size, lambda reservation: self._want_slot(task, reservation)
        )

    def _size_to_reserve(self, task: Task) -> int:
        """What the object's size is known to be, or else the largest that is allowed."""
        size = task.event.size if task.tries.true_size is None else task.tries.true_size
        most = self._options.max_object_bytes
        return most if size is None else min(size, most)

    def _want_slot(self, task: Task, reservation: Reservation) -> None:
        task.encoded = reservation
        task.hold("encoded", reservation.release)
        self.slots.reserve(task.job.assignment.partition, 1, lambda slot: self._fetch(task, slot))

    def _fetch(self, task: Task, slot: Reservation) -> None:
        task.hold("slot", slot.release)
        if not self._endings.still_wanted(task) or self._left_alone(task):
            return
        self._progress.move(task, "fetch")
        task.tries.asked_at = self._clock.monotonic()
        assert task.encoded is not None
        if task.tries.reference is None:
            self._endings.when_done(task, self._intake.fetch(task.job, task.encoded.size), self._fetched)
        else:
            self._endings.when_done(task, self._intake.fetch(task.tries.reference, task.encoded.size), self._compared)

    def _reference(self, task: Task) -> Job | None:
        """What to read before this task's object, so that the answer tells whether object or store is at fault."""
        bucket = task.event.bucket
        if self.bucket_breakers.closed(bucket) and (
            not task.tries.failed or self.bucket_breakers.has_read(bucket, after=task.tries.failed_at)
        ):
            return None
        return self.bucket_breakers.reference(bucket, task.event.key)

    def _compared(self, task: Task, future: Future[Fetched]) -> None:
        """Fetch the task's object if the reference was given. Else the store fails, and the task waits, not blamed."""
        reference, task.tries.reference = task.tries.reference, None
        assert reference is not None
        bucket, now = task.event.bucket, self._clock.monotonic()
        try:
            self._intake.discard(future.result())
            self.bucket_breakers.read(bucket, reference, task.tries.asked_at, now)
        except Unavailable as error:
            if error.fault != "object":
                self._away(task, reference, error, now)
                return
            self.bucket_breakers.forget(bucket, reference)
            self.bucket_breakers.answered(bucket, now)
        except (Gone, Superseded, LargerThanReserved, Rejected):
            self.bucket_breakers.forget(bucket, reference)
            self.bucket_breakers.answered(bucket, now)
        if self._endings.still_wanted(task):
            assert task.encoded is not None
            self._progress.move(task, "fetch")
            task.tries.asked_at = now
            self._endings.when_done(task, self._intake.fetch(task.job, task.encoded.size), self._fetched)

    def _away(self, task: Task, reference: Job, error: Unavailable, now: float) -> None:
        if error.advice and error.fault in REFUSALS:
            self.bucket_breakers.refused(task.event.bucket, error.advice)
        self.bucket_breakers.reference_failed(task.event.bucket, reference, task, now)
        self._wait(task, now + self._pause(task))
        _log.warning("the object store fails for what it gave before: %s; %s waits", error.detail, task)

    def _left_alone(self, task: Task) -> bool:
        """Whether the store is left alone for now: then the task waits, holding nothing."""
        if self.bucket_breakers.may_ask(task.event.bucket, task):
            return False
        self._wait(task, self._clock.monotonic())
        return True

    def _wait(self, task: Task, until: float) -> None:
        """Wait and hold nothing. Last, because the next that gets what it held must know what is known of the store."""
        task.release("slot", "encoded", "turn")
        task.hold("turn", lambda: self.bucket_breakers.left(task.event.bucket, task))
        self._progress.move(task, "wait-store")
        self.bucket_breakers.wait(task.event.bucket, task.job.assignment, task, until=until, tries=task.tries.failed)

    def _fetched(self, task: Task, future: Future[Fetched]) -> None:
        now = self._clock.monotonic()
        try:
            task.fetched = future.result()
        except Unavailable as error:
            self._try_later(task, error, now)
            return
        except Gone:
            self.bucket_breakers.answered(task.event.bucket, now)
            self._endings.skip(task, "gone")
            return
        except Superseded:
            self.bucket_breakers.answered(task.event.bucket, now)
            reason: SkipReason = "stale" if task.job.only_newest else "superseded"
            self._endings.skip(task, reason)
            return
        except LargerThanReserved as error:
            self.bucket_breakers.read(task.event.bucket, None, task.tries.asked_at, now)
            self._reserve_more(task, error)
            return
        except Rejected as error:
            self._endings.reject(task, error)
            return
        self.bucket_breakers.read(task.event.bucket, _as_reference(task, task.fetched), task.tries.asked_at, now)
        task.release("slot")
        task.hold("bytes", lambda: self._discard(task))
        if task.encoded is not None:
            task.encoded.shrink(task.fetched.size)
        task.read = replace(task.fetched, handle=None)
        self._when_fetched(task)

    def _discard(self, task: Task) -> None:
        if task.fetched is not None:
            self._intake.discard(task.fetched)
            task.fetched = None

    def _reserve_more(self, task: Task, error: LargerThanReserved) -> None:
        """The event, or the store, understates the size. The store's word is taken once, then the largest is reserved.

        So no byte is read without a reservation, and no object is read more than three times.
        """
        believed = error.size if task.tries.true_size is None else None
        task.tries.true_size = self._options.max_object_bytes if believed is None else believed
        task.release("slot", "encoded")
        self.begin(task)

    def _try_later(self, task: Task, error: Unavailable, now: float) -> None:
        """The store failed it: wait and try again, unless this object alone is what fails."""
        bucket, tries = task.event.bucket, task.tries
        others_read = tries.failed > 0 and self.bucket_breakers.has_read(bucket, after=tries.failed_at)
        if not others_read:
            tries.failing_since = tries.asked_at
        tries.failing_since = max(tries.failing_since, self.bucket_breakers.recovered_at(bucket))
        pause = self._pause(task)
        rejection = blame(
            Evidence(
                fault=error.fault,
                said=error.detail,
                before=tries.fault,
                others_read=others_read,
                failing_s=now - tries.failing_since,
                next_s=pause + now - tries.asked_at,
            ),
            self._options.unreadable_s,
        )
        if error.fault == "object":
            self.bucket_breakers.answered(bucket, now)
        if rejection is not None:
            self._endings.reject(task, rejection)
            return
        if tries.failed and not others_read and error.advice and error.fault in REFUSALS:
            self.bucket_breakers.refused(bucket, error.advice)
        tries.failed += 1
        tries.fault, tries.failed_at = error.fault, now
        if others_read or error.fault == "object":
            self.bucket_breakers.left(bucket, task)  # a failure of its own, which says nothing of the store
        else:
            self.bucket_breakers.failed(bucket, task.event.key, task, now)
        self._wait(task, now + pause)
        _log.warning("the object store fails, attempt %d: %s; %s waits", tries.failed, error.detail, task)

    def _pause(self, task: Task) -> float:
        ceiling = min(self._options.retry_max_s, self._options.retry_min_s * 2 ** min(task.tries.failed + 1, 10))
        return random.uniform(ceiling / 2, ceiling)


def _as_reference(task: Task, fetched: Fetched) -> Job:
    """The same object, as it was read: with its true size and etag."""
    event = replace(task.event, size=fetched.size, etag=fetched.etag or task.event.etag)
    return replace(task.job, event=event, only_newest=False)
