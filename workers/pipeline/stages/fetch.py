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
from schemas.version import microseconds
from workers import metrics
from workers.errors import BucketGone, Gone, LargerThanReserved, Rejected, Superseded, Unavailable
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
from workers.types import Assignment, Fetched

_log = logging.getLogger(__name__)

_ABSENT_TRIES = 3
_ABSENT_WAIT_S = 0.1
_YOUNG_S = 10.0
"""So long after an event was written a store behind a gateway may not show its object yet."""

_ASKED_PER_S = 100
"""However many objects of a bucket are refused, at most twice as many are requested again in a second."""


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
        return self.bucket_breakers.denials()

    def notices(self) -> list[str]:
        return self.bucket_breakers.notices(self._clock.monotonic())

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
            if task.tries.failed or task.tries.absent:
                metrics.RETRIES.add(dependency="s3")
            self.begin(task)

    def drop_ended(self) -> None:
        for task in self.bucket_breakers.leave_ended():
            self._endings.drop(task)

    def begin(self, task: Task) -> None:
        """Fetch the object once there is room and its breaker allows it."""
        if not self._endings.still_wanted(task) or self._left_alone(task):
            return
        self._progress.move(task, "wait-fetch")
        self.encoded.reserve(
            task.job.assignment.partition,
            self._size_to_reserve(task),
            lambda reservation: self._reserve_slot(task, reservation),
        )

    def _size_to_reserve(self, task: Task) -> int:
        """Bytes to reserve: the known size, or else the largest allowed.

        A HEAD reserves 1 byte.
        """
        if task.removals:
            return 1
        size = task.event.size if task.tries.true_size is None else task.tries.true_size
        most = self._options.max_object_bytes
        return most if size is None else min(size, most)

    def _reserve_slot(self, task: Task, reservation: Reservation) -> None:
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
        then = self._on_head if task.removals else self._fetched
        self._endings.when_done(task, self._intake.fetch(task.job, task.encoded.size), then)

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
            self._absent(task, now)
            return
        except Superseded:
            self.bucket_breakers.answered(task.event.bucket, now)
            reason: SkipReason = "stale" if task.job.only_newest else "superseded"
            self._endings.skip(task, reason)
            return
        except LargerThanReserved as error:
            self.bucket_breakers.read(task.event.bucket, task.tries.asked_at, now)
            self._reserve_more(task, error)
            return
        except Rejected as error:
            self._endings.reject(task, error)
            return
        self.bucket_breakers.read(task.event.bucket, task.tries.asked_at, now)
        task.release("slot")
        task.hold("bytes", lambda: self._discard(task))
        if task.encoded is not None:
            task.encoded.shrink(task.fetched.size)
        task.read = replace(task.fetched, handle=None)
        self._when_fetched(task)

    def _on_head(self, task: Task, future: Future[Fetched]) -> None:
        """Handle the HEAD's answer for an object that its event calls removed.

        The event's word stands where the store can't tell and need not be waited for.
        """
        bucket, now = task.event.bucket, self._clock.monotonic()
        try:
            future.result()
        except (Rejected, BucketGone):
            self._endings.retract(task)
        except Unavailable as error:
            if error.fault in REFUSALS:
                self.bucket_breakers.answered(bucket, now)
                self._endings.retract(task)
            else:
                self._try_later(task, error, now)
        except Gone as gone:
            self.bucket_breakers.answered(bucket, now)
            self._endings.retract(task, gone.date)
        except Superseded as found:
            self.bucket_breakers.answered(bucket, now)
            task.tries.absent += 1
            if task.tries.absent < _ABSENT_TRIES and _is_older(found, task):
                self._wait(task, now + _ABSENT_WAIT_S)
            else:
                self._endings.stale(task)

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

    def _absent(self, task: Task, now: float) -> None:
        """Skip it. A young one is requested again first: a store may show a new object late."""
        task.tries.absent += 1
        age_s = self._clock.wall() - task.entry.record.timestamp_ms / 1000
        if task.tries.absent < _ABSENT_TRIES and age_s < _YOUNG_S:
            self._wait(task, now + _ABSENT_WAIT_S)
        else:
            self._endings.skip(task, "gone")

    def _try_later(self, task: Task, error: Unavailable, now: float) -> None:
        """The store did not give it: wait and try again, unless this object alone is what fails."""
        bucket, tries, breakers = task.event.bucket, task.tries, self.bucket_breakers
        others_read = self._others_read(task, error)
        if others_read:
            outage_s = tries.asked_at - tries.failed_at - self._options.retry_max_s  # by itself no pause is longer
            tries.failing_s += now - tries.failing_since - max(0.0, outage_s)
        tries.failing_since = now if others_read else tries.asked_at
        pause = self._pause(task)
        rejection = blame(
            Evidence(
                fault=error.fault,
                said=error.detail,
                before=tries.fault,
                others_read=others_read,
                failing_s=tries.failing_s,
                next_s=pause + now - tries.asked_at,
            ),
            self._options.unreadable_s,
        )
        if error.fault in REFUSALS:
            breakers.answered(bucket, now)
        if rejection is not None and task.removals:
            self._endings.retract(task)
            return
        if rejection is not None:
            self._endings.reject(task, rejection)
            return
        if error.fault in REFUSALS:
            if tries.refused_at is None and error.fault != "object":
                breakers.refused(bucket, task.event.key, error)
            tries.refused_at = now if tries.refused_at is None else tries.refused_at
            pause = max(pause, random.uniform(0.5, 1.0) * breakers.waiting(bucket) / _ASKED_PER_S)
        else:
            tries.refused_at = None
            if others_read:
                breakers.left(bucket, task)  # a failure of its own, which says nothing of the store
            else:
                breakers.failed(bucket, task.event.key, task, error, now)
        tries.failed += 1
        tries.fault, tries.failed_at = error.fault, now
        self._wait(task, now + pause)
        _log.warning("the object store fails, attempt %d: %s; %s waits", tries.failed, error.detail, task)

    def _others_read(self, task: Task, error: Unavailable) -> bool:
        """Whether another object was requested and read since an earlier try failed.

        Of a bucket that refuses one object after another, none that it refuses is compared.
        """
        tries, bucket = task.tries, task.event.bucket
        if not tries.failed or (error.fault in REFUSALS and self.bucket_breakers.refuses_all(bucket)):
            return False
        since = tries.failed_at
        if error.fault in REFUSALS and tries.refused_at is not None:
            since = tries.refused_at
        return self.bucket_breakers.has_read(bucket, after=since)

    def _pause(self, task: Task) -> float:
        ceiling = min(self._options.retry_max_s, self._options.retry_min_s * 2 ** min(task.tries.failed + 1, 10))
        return random.uniform(ceiling / 2, ceiling)


def _is_older(found: Superseded, task: Task) -> bool:
    """Whether the object that is there was written before it was removed: then the store may show it still."""
    removed = max(microseconds(said.event.event_time) or 0 for said in task.removals)
    return (microseconds(found.last_modified) or removed) < removed
