"""The fetch stage: downloads objects, and decides whether an object or its store failed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from schemas.dead_letter import Reason
from schemas.enriched_image import SkipReason
from schemas.version import microseconds
from workers import metrics
from workers.errors import BucketGone, Fault, Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.annotation import Annotation
from workers.pipeline.flow.bucket_breakers import BucketBreakers
from workers.pipeline.flow.budget import Budget, Reservation
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import Stage
from workers.pipeline.task import LoadedTask, Removal, RemovalTask, Task
from workers.ports import Clock, Intake
from workers.types import Assignment, Fetched

REFUSALS: frozenset[Fault] = frozenset({"forbidden", "refused", "object"})
"""Faults with which a running store refuses a request. Waiting does not remove them."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence about one object after a failed request.

    Args:
        said: text of this failure, without the object's key.
        before: cause of the previous failure; None: this is the first.
        others_read: whether another object of the bucket was requested and read after an earlier failure.
        failing_s: for how many seconds the object has failed while other objects could be read.
        next_s: expected seconds until the next attempt ends.
    """

    fault: Fault
    said: str
    before: Fault | None
    others_read: bool
    failing_s: float
    next_s: float


def blame(known: Evidence, unreadable_s: float) -> Rejected | None:
    """Return a rejection if the object is to blame; None: try again.

    One failure proves nothing: the store may be down, or our credentials may have expired. So `blame` compares with
    other objects: the object failed, another object of its bucket was read, and the object failed again. Two refusals
    are enough. Other failures must last for `unreadable_s` seconds. A fault that only the object can cause needs no
    comparison.
    """
    if known.before is None:
        return None
    if known.fault == known.before == "object":
        return Rejected("fetch", "unreadable", f"{known.said}, twice")
    if not known.others_read:
        return None
    if known.fault in REFUSALS and known.before in REFUSALS:
        reason: Reason = "forbidden" if known.fault == "forbidden" else "unreadable"
        return Rejected("fetch", reason, f"{known.said}, twice, while other objects of its bucket were read")
    if known.failing_s + known.next_s < unreadable_s:
        return None
    reason = "fetch-too-slow" if known.fault == "too-slow" else "unreadable"
    detail = f"{known.said}; failed for {known.failing_s:.0f} s while other objects of its bucket were read"
    return Rejected("fetch", reason, detail)


_log = logging.getLogger(__name__)

_ABSENT_TRIES = 3
_ABSENT_WAIT_S = 0.1
_YOUNG_S = 10.0
"""For events younger than this, an absent object may only be invisible yet."""

_REFUSED_PER_S = 100
"""Requests per second for the refused objects of a bucket; jitter can double the rate."""


@dataclass(slots=True, eq=False)
class StoreRequest:
    """A task's request to the store, with the history of its attempts. Times are monotonic seconds.

    Args:
        removals: removal events, for a HEAD request; empty: the request is a GET.
    """

    task: Task
    removals: Sequence[Removal] = ()
    failed: int = 0
    """The number of failures."""
    fault: Fault | None = None
    """The cause of the last failure."""
    asked_at: float = 0.0
    """Time of the last attempt."""
    failed_at: float = 0.0
    refused_at: float | None = None
    """Time of the first refusal since the last failure of another kind."""
    failing_s: float = 0.0
    """Seconds for which the object has failed while other objects could be read."""
    failing_since: float = 0.0
    """Time of the last look at `failing_s`."""
    absent: int = 0
    """Number of answers that contradict the event: object absent, or for a removal, still there."""
    true_size: int | None = None
    """Bytes to reserve if the object is larger than its event says."""

    @property
    def bucket(self) -> str:
        return self.task.event.bucket


class FetchStage(Stage):
    """Downloads the object of each task. The intake's threads do the work."""

    places = (Place("wait-fetch"), Place("fetch", works=True), Place("wait-store", waits_on_others=True))

    lookup: Callable[[LoadedTask], None]

    def __init__(
        self, intake: Intake, progress: TaskProgress, clock: Clock, options: WorkerOptions, endings: Endings
    ) -> None:
        self._intake = intake
        self._progress = progress
        self._clock = clock
        self._options = options
        self._endings = endings
        self.bucket_breakers: BucketBreakers[StoreRequest] = BucketBreakers(options.retry_min_s, options.retry_max_s)
        self.encoded = Budget(options.encoded_bytes, options.background)
        self.slots = Budget(options.fetch_threads, options.background)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        return {"encoded": self.encoded}

    def divide(self, live: int, background: int = 0) -> None:
        super().divide(live, background)
        self.slots.divide(live, background)

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
        for request in self.bucket_breakers.due(self._clock.monotonic()):
            if request.failed or request.absent:
                metrics.RETRIES.add(dependency="s3")
            self._begin(request)

    def drop_ended(self) -> None:
        for request in self.bucket_breakers.leave_ended():
            self._endings.drop(request.task)

    def begin(self, task: Task) -> None:
        """Fetch the object when memory and the bucket's breaker allow it."""
        self._begin(StoreRequest(task))

    def look(self, removed: RemovalTask) -> None:
        """Check with a HEAD request whether the object is gone; ends the task."""
        self._begin(StoreRequest(removed.task, removed.removals))

    def _begin(self, request: StoreRequest) -> None:
        task = request.task
        if not self._endings.still_wanted(task) or self._must_wait(request):
            return
        self._progress.move(task, "wait-fetch")
        self.encoded.reserve(
            task.job.assignment.partition,
            self._size_to_reserve(request),
            lambda reservation: self._reserve_slot(request, reservation),
        )

    def _size_to_reserve(self, request: StoreRequest) -> int:
        """Bytes to reserve: the known size or the largest allowed; 1 for a HEAD."""
        if request.removals:
            return 1
        size = request.task.event.size if request.true_size is None else request.true_size
        most = self._options.max_object_bytes
        return most if size is None else min(size, most)

    def _reserve_slot(self, request: StoreRequest, reservation: Reservation) -> None:
        task = request.task
        task.hold("encoded", reservation.release)
        self.slots.reserve(task.job.assignment.partition, 1, lambda slot: self._fetch(request, reservation, slot))

    def _fetch(self, request: StoreRequest, reservation: Reservation, slot: Reservation) -> None:
        task = request.task
        task.hold("slot", slot.release)
        if not self._endings.still_wanted(task) or self._must_wait(request):
            return
        self._progress.move(task, "fetch")
        request.asked_at = self._clock.monotonic()
        then = partial(self._on_head, request) if request.removals else partial(self._fetched, request, reservation)
        self._endings.when_done(task, self._intake.fetch(task.job, reservation.size), then)

    def _must_wait(self, request: StoreRequest) -> bool:
        """Make the task wait if its bucket's breaker is open; True: it waits."""
        if self.bucket_breakers.may_ask(request.bucket, request):
            return False
        self._wait(request, self._clock.monotonic())
        return True

    def _wait(self, request: StoreRequest, until: float) -> None:
        """Release slot and memory, then wait.

        Callers update the breaker before, because the release can start the next fetch.
        """
        task, bucket = request.task, request.bucket
        task.release("slot", "encoded", "turn")
        task.hold("turn", lambda: self.bucket_breakers.left(bucket, request))
        self._progress.move(task, "wait-store")
        self.bucket_breakers.wait(bucket, task.job.assignment, request, until=until, tries=request.failed)

    def _fetched(self, request: StoreRequest, reservation: Reservation, future: Future[Fetched]) -> None:
        task, bucket, now = request.task, request.bucket, self._clock.monotonic()
        try:
            fetched = future.result()
        except Unavailable as error:
            self._try_later(request, error, now)
            return
        except Gone:
            self.bucket_breakers.answered(bucket, now)
            self._absent(request, now)
            return
        except Superseded:
            self.bucket_breakers.answered(bucket, now)
            reason: SkipReason = "stale" if task.job.only_newest else "superseded"
            self._endings.skip(task, reason)
            return
        except LargerThanReserved as error:
            self.bucket_breakers.read(bucket, request.asked_at, now)
            self._reserve_more(request, error)
            return
        except Rejected as error:
            self._endings.reject(task, error)
            return
        self.bucket_breakers.read(bucket, request.asked_at, now)
        task.release("slot")
        task.hold("bytes", lambda: self._intake.discard(fetched))
        task.reads_copy = fetched.original is not None
        reservation.shrink(fetched.size)
        self.lookup(LoadedTask(task, Annotation.begin(task.event, task.profile, fetched), fetched))

    def _on_head(self, request: StoreRequest, future: Future[Fetched]) -> None:
        """Handle the answer to a HEAD request for a removed object.

        If the store refuses the request, the event is believed: without the right to list a bucket, S3 also refuses
        a HEAD of an absent object.
        """
        bucket, now = request.bucket, self._clock.monotonic()
        try:
            future.result()
        except (Rejected, BucketGone):
            self._endings.retract(request.task, request.removals)
        except Unavailable as error:
            if error.fault in REFUSALS:
                self.bucket_breakers.answered(bucket, now)
                self._endings.retract(request.task, request.removals)
            else:
                self._try_later(request, error, now)
        except Gone as gone:
            self.bucket_breakers.answered(bucket, now)
            self._endings.retract(request.task, request.removals, gone.date)
        except Superseded as found:
            self.bucket_breakers.answered(bucket, now)
            request.absent += 1
            if request.absent < _ABSENT_TRIES and _is_older(found, request.removals):
                self._wait(request, now + _ABSENT_WAIT_S)
            else:
                self._endings.stale(request.task, request.removals)

    def _reserve_more(self, request: StoreRequest, error: LargerThanReserved) -> None:
        """Fetch again with a larger reservation.

        The second attempt reserves the size in the store's answer, the third the largest allowed size.
        """
        announced = error.size if request.true_size is None else None
        request.true_size = self._options.max_object_bytes if announced is None else announced
        request.task.release("slot", "encoded")
        self._begin(request)

    def _absent(self, request: StoreRequest, now: float) -> None:
        """Skip an absent object; if its event is young, first try again."""
        request.absent += 1
        age_s = self._clock.wall() - request.task.entry.record.timestamp_ms / 1000
        if request.absent < _ABSENT_TRIES and age_s < _YOUNG_S:
            self._wait(request, now + _ABSENT_WAIT_S)
        else:
            self._endings.skip(request.task, "gone")

    def _try_later(self, request: StoreRequest, error: Unavailable, now: float) -> None:
        """Wait and try again, unless the object is to blame."""
        task, bucket, breakers = request.task, request.bucket, self.bucket_breakers
        others_read = self._others_read(request, error)
        if others_read:
            # If the gap between two attempts is longer than the longest pause, the excess was an outage.
            outage_s = request.asked_at - request.failed_at - self._options.retry_max_s
            request.failing_s += now - request.failing_since - max(0.0, outage_s)
        request.failing_since = now if others_read else request.asked_at
        pause = self._pause(request)
        rejection = blame(
            Evidence(
                fault=error.fault,
                said=error.detail,
                before=request.fault,
                others_read=others_read,
                failing_s=request.failing_s,
                next_s=pause + now - request.asked_at,
            ),
            self._options.unreadable_s,
        )
        if error.fault in REFUSALS:
            breakers.answered(bucket, now)
        if rejection is not None and request.removals:
            self._endings.retract(task, request.removals)
            return
        if rejection is not None:
            self._endings.reject(task, rejection)
            return
        if error.fault in REFUSALS:
            if request.refused_at is None and error.fault != "object":
                breakers.refused(bucket, task.event.key, error)
            request.refused_at = now if request.refused_at is None else request.refused_at
            pause = max(pause, random.uniform(0.5, 1.0) * breakers.waiting(bucket) / _REFUSED_PER_S)
        else:
            request.refused_at = None
            if others_read:
                breakers.left(bucket, request)  # says nothing about the store
            else:
                breakers.failed(bucket, task.event.key, request, error, now)
        request.failed += 1
        request.fault, request.failed_at = error.fault, now
        self._wait(request, now + pause)
        _log.warning("the object store failed at attempt %d: %s; %s waits", request.failed, error.detail, task)

    def _others_read(self, request: StoreRequest, error: Unavailable) -> bool:
        """Whether another object was requested and read after an earlier failure.

        A refusal proves nothing while the bucket refuses one object after another.
        """
        refusal = error.fault in REFUSALS
        if not request.failed or (refusal and self.bucket_breakers.refuses_all(request.bucket)):
            return False
        since = request.failed_at
        if refusal and request.refused_at is not None:
            since = request.refused_at
        return self.bucket_breakers.has_read(request.bucket, after=since)

    def _pause(self, request: StoreRequest) -> float:
        ceiling = min(self._options.retry_max_s, self._options.retry_min_s * 2 ** min(request.failed + 1, 10))
        return random.uniform(ceiling / 2, ceiling)


def _is_older(found: Superseded, removals: Sequence[Removal]) -> bool:
    """Whether the store still shows the object from before its removal."""
    removed = max(microseconds(said.event.event_time) or 0 for said in removals)
    return (microseconds(found.last_modified) or removed) < removed
