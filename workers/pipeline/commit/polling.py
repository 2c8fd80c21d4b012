"""The poll thread's work: polls records, admits what the bounds allow, and does no other work."""

from __future__ import annotations

from collections import deque

from workers.pipeline.flow.queue import StageQueue
from workers.pipeline.options import WorkerOptions
from workers.pipeline.pipeline import Pipeline
from workers.ports import RecordSource
from workers.types import Assignment, Partition, Polled, Record

HEAD_START_S = 0.003
"""So long records that come to a worker with nothing in hand go ahead of the next poll. To ask for more takes the
client's threads as long as half an event's way to its message, which would wait for the interpreter's lock meanwhile.
Less once they are committed: a producer that waits for each outcome sends its next event then."""


class _Backlog:
    """Records of one assignment that were polled and not admitted, and how many bytes they hold."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.bytes = 0

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.bytes += record.size

    def next(self) -> Record:
        record = self.records.popleft()
        self.bytes -= record.size
        return record

    def clear(self) -> None:
        self.records.clear()
        self.bytes = 0


class Poller:
    """Polls, opens partitions, admits records in offset order, pauses and resumes.

    What is polled and not yet admitted waits in `backlog`, counted: a client's own half-delivered fetch is not a
    place to keep records in (delivery: pausing).

    Args:
        opening: assignments whose committed offset the publish thread has to find out.
        opened: its answers; a negative offset says that the assignment has ended.
    """

    def __init__(
        self,
        source: RecordSource,
        pipeline: Pipeline,
        options: WorkerOptions,
        opening: StageQueue[Assignment],
        opened: StageQueue[tuple[Assignment, int]],
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._options = options
        self._opening = opening
        self._opened = opened
        self._backlog: dict[Assignment, _Backlog] = {}
        self._paused: set[Partition] = set()
        self.admitting = True
        self.opening = 0

    def step(self) -> bool:
        """One turn. True when records came or were admitted."""
        polled = self._source.poll(0.02 if self._backlog else 0.1)
        self._leave_ended()
        self._begin(polled)
        self._open()
        for record in polled.records:
            self._backlog.setdefault(record.assignment, _Backlog()).add(record)
        for stage in self._pipeline.stages:
            stage.poll()
        if not self.admitting:
            self._backlog.clear()
        quiet = not self._pipeline.ledger.records
        admitted = self._admit()
        self._hold_back()
        if quiet and admitted:
            self._pipeline.ledger.wait_until_empty(HEAD_START_S)
        return bool(polled.records) or admitted > 0

    def stop_admitting(self) -> None:
        """Admit nothing more, for the drain: what was not admitted belongs to the next owner."""
        self.admitting = False

    @property
    def idle(self) -> bool:
        return not self._backlog and not self.opening

    @property
    def paused(self) -> int:
        """Partitions whose backlog is full."""
        return len(self._paused)

    def _begin(self, polled: Polled) -> None:
        for assignment in polled.started:
            self.opening += 1
            self._paused.discard(assignment.partition)
            self._opening.put(assignment)
        if polled.started:
            self._pipeline.ledger.wake()

    def _open(self) -> None:
        for assignment, offset in self._opened.take(1_000):
            self.opening -= 1
            if assignment.current and offset >= 0:
                self._pipeline.open(assignment, offset)
                self._source.start(assignment, offset)
                self._divide()

    def _leave_ended(self) -> None:
        ended = self._pipeline.ledger.close_ended()
        for assignment in [assignment for assignment in self._backlog if not assignment.current]:
            del self._backlog[assignment]
        if ended:
            for stage in self._pipeline.stages:
                stage.drop_ended()
            self._divide()

    def _divide(self) -> None:
        partitions = len(self._pipeline.ledger.assignments())
        for stage in self._pipeline.stages:
            stage.divide(partitions)

    def _admit(self) -> int:
        """Round robin, one record a partition and turn, as far as the bounds allow."""
        admitted = 0
        waiting = [assignment for assignment in self._backlog if self._may_admit(assignment)]
        while waiting:
            for assignment in list(waiting):
                backlog = self._backlog[assignment]
                if self._pipeline.take(backlog.next()):
                    admitted += 1
                else:
                    backlog.clear()
                if not backlog.records:
                    del self._backlog[assignment]
                if not backlog.records or not self._may_admit(assignment):
                    waiting.remove(assignment)
        return admitted

    def _may_admit(self, assignment: Assignment) -> bool:
        ledger = self._pipeline.ledger
        ahead = ledger.jobs_ahead(assignment)
        if ahead >= self._options.jobs_ahead:
            return False
        if any(stage.holds_back(assignment) for stage in self._pipeline.stages):
            return False
        # The head of a partition always gets in: it is what the others of its partition wait for.
        return ahead == 0 or ledger.bytes < self._options.ledger_bytes

    def _hold_back(self) -> None:
        """Pause the partitions whose backlog is above its share of the bound; resume below half of it."""
        share = self._options.polled_bytes / max(1, len(self._pipeline.ledger.assignments()))
        sizes = {assignment.partition: backlog.bytes for assignment, backlog in self._backlog.items()}
        if not self.admitting:
            full = {assignment.partition for assignment in self._pipeline.ledger.assignments()}
        else:
            full = {
                partition
                for partition, size in sizes.items()
                if size > (share / 2 if partition in self._paused else share)
            }
        if pause := full - self._paused:
            self._source.pause(sorted(pause))
        if resume := self._paused - full:
            self._source.resume(sorted(resume))
        self._paused = full
