"""Polls records, and admits them while there is room."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.dead_letter import KEYS_BYTES_MAX, bytes_in_keys
from workers.lanes import is_background
from workers.pipeline.commit.work import Work
from workers.pipeline.flow.byte_turns import ByteTurns
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.ports import RecordSource
from workers.types import Assignment, Partition, Polled, Record

_log = logging.getLogger(__name__)

HEAD_START_S = 0.003
"""Longest pause of polling, in seconds, after records reach an idle worker. A poll would delay their outcomes, because
it holds Python's interpreter lock. The pause ends with their commit."""


_BACKGROUND, _BACKGROUND_WITH_LIVE = 8, 2
"""Most background records that are admitted between two polls, and beside live ones. Stages that hold them back count
them only once they are parsed."""


@dataclass(eq=False)
class Poller:
    """Polls records and admits them; starts, pauses and resumes partitions.

    Polled records wait in `_backlog` until they are admitted. Background records wait there, also their partition's
    first, while live work waits anywhere in this worker.

    Args:
        opened: assignments with their committed offsets; a negative offset: the assignment has ended.
    """

    source: RecordSource
    pipeline: Work
    options: WorkerOptions
    to_open: StageQueue[Assignment]
    opened: StageQueue[tuple[Assignment, int]]
    admitting: bool = True
    """Once it is false, the next owner of a partition reads further records."""
    opening: int = 0

    def __post_init__(self) -> None:
        self._backlog = ByteTurns[list[Record]](self._may_admit)
        self._background_left = _BACKGROUND
        self._paused: set[Partition] = set()

    def step(self) -> bool:
        """Poll once and admit records; True: there were records."""
        # More background records may be admitted than one turn allows.
        at_once = 0.0 if self._background_left <= 0 else 0.02
        polled = self.source.poll(at_once if self._backlog else 0.1)
        self._leave_ended()
        self._begin(polled)
        self._open()
        for run in runs(polled.records):
            self._backlog.add(run[0].assignment, run, sum(record.size for record in run))
        for stage in self.pipeline.stages:
            stage.poll()
        if not self.admitting:
            self._backlog.clear()
        quiet = not self.pipeline.ledger.records
        admitted = self._admit()
        self._hold_back()
        if quiet and admitted:
            self.pipeline.ledger.wait_until_empty(HEAD_START_S)
        return bool(polled.records) or admitted > 0

    @property
    def idle(self) -> bool:
        return not self._backlog and not self.opening

    @property
    def paused(self) -> int:
        return len(self._paused)

    def _begin(self, polled: Polled) -> None:
        for assignment in polled.started:
            assignment.background = is_background(assignment.partition, self.options.background)
            self.opening += 1
            self._paused.discard(assignment.partition)
            self.to_open.put(assignment)
        if polled.started:
            _log.info("partitions assigned: %s", _named(polled.started))
            self.pipeline.ledger.wake()

    def _open(self) -> None:
        for assignment, offset in self.opened.take(1_000):
            self.opening -= 1
            if assignment.current and offset >= 0:
                self.source.start(assignment, self.pipeline.open(assignment, offset))
                self._divide()

    def _leave_ended(self) -> None:
        ended = self.pipeline.ledger.close_ended()
        self._backlog.drop_ended()
        if ended:
            _log.info("partitions revoked: %s", _named(ended))
            for stage in self.pipeline.stages:
                stage.drop_ended()
            self._divide()

    def _divide(self) -> None:
        lanes = self._lanes()
        for stage in self.pipeline.stages:
            stage.divide(lanes[False], lanes[True])

    def _lanes(self) -> Counter[bool]:
        """The number of live partitions, and that of background ones."""
        return Counter(assignment.background for assignment in self.pipeline.ledger.assignments())

    def _admit(self) -> int:
        admitted, self._background_left = 0, _BACKGROUND
        for run in self._backlog.rounds():
            admitted += self.pipeline.take(*run)
            if run[0].assignment.background:
                self._background_left -= 1
            else:
                self._background_left = min(self._background_left, _BACKGROUND_WITH_LIVE)
        return admitted

    def _may_admit(self, run: list[Record]) -> bool:
        assignment, ledger = run[0].assignment, self.pipeline.ledger
        ahead = ledger.jobs_ahead(assignment)
        if ahead >= ledger.most_jobs(assignment, self.options.jobs_ahead):
            return False
        if assignment.background and self._background_left <= 0:
            return False
        if any(stage.holds_back(assignment) for stage in self.pipeline.stages):
            return False
        # The first record of a partition is always admitted, because all its other records wait for it.
        return ahead == 0 or not ledger.is_full(assignment, self.options.ledger_bytes)

    def _hold_back(self) -> None:
        """Pause partitions whose backlog exceeds their share; resume them below half of it."""
        lanes = self._lanes()
        part = self.options.polled_bytes / (2 if lanes[True] else 1)
        if not self.admitting:
            full = {assignment.partition for assignment in self.pipeline.ledger.assignments()}
        else:
            full = {
                assignment.partition
                for assignment, size in self._backlog.sizes.items()
                if size * lanes[assignment.background] > (part / 2 if assignment.partition in self._paused else part)
            }
        if pause := full - self._paused:
            self.source.pause(sorted(pause))
        if resume := self._paused - full:
            self.source.resume(sorted(resume))
        self._paused = full


def runs(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group each record with its repeats, which differ only in their keys.

    The keys of a group fit into one dead letter.
    """
    run: list[Record] = []
    keys = 0
    for record in records:
        keys += bytes_in_keys(record.key)
        is_next = run and record.assignment is run[-1].assignment and record.offset == run[-1].next_offset
        if is_next and record.repeats and keys <= KEYS_BYTES_MAX:
            run.append(record)
            continue
        if run:
            yield run
        run, keys = [record], bytes_in_keys(record.key)
    if run:
        yield run


def _named(assignments: Iterable[Assignment]) -> str:
    return ", ".join(map(str, sorted(assignment.partition for assignment in assignments)))
