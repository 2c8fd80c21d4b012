"""The poll thread's work: polls records and admits them within the bounds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from schemas.dead_letter import KEYS_BYTES_MAX, bytes_in_keys
from workers.pipeline.commit.work import Work
from workers.pipeline.flow.byte_turns import ByteTurns
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.ports import RecordSource
from workers.types import Assignment, Partition, Polled, Record

_log = logging.getLogger(__name__)

HEAD_START_S = 0.003
"""Most seconds that an idle worker delays the next poll after records arrive. A poll keeps the interpreter's lock for
half of an event's time, and would delay its outcome. The delay ends with the commit: a producer that waits for each
outcome then sends its next event."""


class Poller:
    """Polls, opens partitions, admits records in offset order, pauses and resumes.

    Polled records wait in `backlog`, where they are counted, until they are admitted. The client's own buffer is not
    counted.

    Args:
        opening: assignments for which the publish thread must find the committed offset.
        opened: the offsets found; a negative offset means that the assignment has ended.
    """

    def __init__(
        self,
        source: RecordSource,
        pipeline: Work,
        options: WorkerOptions,
        opening: StageQueue[Assignment],
        opened: StageQueue[tuple[Assignment, int]],
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._options = options
        self._opening = opening
        self._opened = opened
        self._backlog = ByteTurns[list[Record]](self._may_admit)
        self._paused: set[Partition] = set()
        self.admitting = True
        self.opening = 0

    def step(self) -> bool:
        """Take one turn; True if records came or were admitted."""
        polled = self._source.poll(0.02 if self._backlog else 0.1)
        self._leave_ended()
        self._begin(polled)
        self._open()
        for run in runs(polled.records):
            self._backlog.add(run[0].assignment, run, sum(record.size for record in run))
        for stage in self._pipeline.stages:
            stage.poll()
        if not self.admitting:
            self._backlog.clear()
        quiet = not self._pipeline.ledger.records
        admitted = sum(self._pipeline.take(*run) for run in self._backlog.rounds())
        self._hold_back()
        if quiet and admitted:
            self._pipeline.ledger.wait_until_empty(HEAD_START_S)
        return bool(polled.records) or admitted > 0

    def stop_admitting(self) -> None:
        """Stop admitting, for the drain: unadmitted records belong to the next owner."""
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
            _log.info("partitions assigned: %s", _named(polled.started))
            self._pipeline.ledger.wake()

    def _open(self) -> None:
        for assignment, offset in self._opened.take(1_000):
            self.opening -= 1
            if assignment.current and offset >= 0:
                self._source.start(assignment, self._pipeline.open(assignment, offset))
                self._divide()

    def _leave_ended(self) -> None:
        ended = self._pipeline.ledger.close_ended()
        self._backlog.drop_ended()
        if ended:
            _log.info("partitions revoked: %s", _named(ended))
            for stage in self._pipeline.stages:
                stage.drop_ended()
            self._divide()

    def _divide(self) -> None:
        partitions = len(self._pipeline.ledger.assignments())
        for stage in self._pipeline.stages:
            stage.divide(partitions)

    def _may_admit(self, run: list[Record]) -> bool:
        assignment, ledger = run[0].assignment, self._pipeline.ledger
        ahead = ledger.jobs_ahead(assignment)
        if ahead >= self._options.jobs_ahead:
            return False
        if any(stage.holds_back(assignment) for stage in self._pipeline.stages):
            return False
        # A partition's first record is always admitted: the partition's other records wait for it.
        return ahead == 0 or ledger.bytes < self._options.ledger_bytes

    def _hold_back(self) -> None:
        """Pause the partitions whose backlog is above its share of the bound; resume below half of it."""
        share = self._options.polled_bytes / max(1, len(self._pipeline.ledger.assignments()))
        if not self.admitting:
            full = {assignment.partition for assignment in self._pipeline.ledger.assignments()}
        else:
            full = {
                assignment.partition
                for assignment, size in self._backlog.sizes.items()
                if size > (share / 2 if assignment.partition in self._paused else share)
            }
        if pause := full - self._paused:
            self._source.pause(sorted(pause))
        if resume := self._paused - full:
            self._source.resume(sorted(resume))
        self._paused = full


def runs(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group records with the repeats after them, within a dead letter's bounds."""
    run: list[Record] = []
    keys = 0
    for record in records:
        keys += bytes_in_keys(record.key)
        behind = run and record.assignment is run[-1].assignment and record.offset == run[-1].next_offset
        if behind and record.repeats and keys <= KEYS_BYTES_MAX:
            run.append(record)
            continue
        if run:
            yield run
        run, keys = [record], bytes_in_keys(record.key)
    if run:
        yield run


def _named(assignments: Iterable[Assignment]) -> str:
    return ", ".join(map(str, sorted(assignment.partition for assignment in assignments)))
