"""The poll thread's work: it owns the record source, admits what the bounds allow, and never works itself."""

from __future__ import annotations

from collections import deque

from workers.pipeline.batching import Inbox
from workers.pipeline.line import Line
from workers.pipeline.options import WorkerOptions
from workers.ports import RecordSource
from workers.vocabulary import Epoch, Partition, Polled, Record

_RECALL_BACKLOG = 1_000
"""Items before the recall thread beyond which no record is admitted."""


class _Backlog:
    """Records of one epoch that were polled and not admitted, and how many bytes they hold."""

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
        opening: epochs whose committed offset the publish thread has to find out.
        opened: its answers; a negative offset says that the epoch has ended.
    """

    def __init__(
        self,
        source: RecordSource,
        line: Line,
        options: WorkerOptions,
        opening: Inbox[Epoch],
        opened: Inbox[tuple[Epoch, int]],
    ) -> None:
        self._source = source
        self._line = line
        self._options = options
        self._opening = opening
        self._opened = opened
        self._backlog: dict[Epoch, _Backlog] = {}
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
            self._backlog.setdefault(record.epoch, _Backlog()).add(record)
        self._line.retry_due()
        if not self.admitting:
            self._backlog.clear()
        admitted = self._admit()
        self._hold_back()
        return bool(polled.records) or admitted > 0

    def stop_admitting(self) -> None:
        """For the drain: what was not admitted belongs to whoever comes next."""
        self.admitting = False

    @property
    def idle(self) -> bool:
        return not self._backlog and not self.opening

    @property
    def paused(self) -> int:
        """Partitions whose backlog is full."""
        return len(self._paused)

    def _begin(self, polled: Polled) -> None:
        for epoch in polled.started:
            self.opening += 1
            self._paused.discard(epoch.partition)
            self._opening.put(epoch)
        if polled.started:
            self._line.ledger.wake()

    def _open(self) -> None:
        for epoch, offset in self._opened.take(1_000, 0):
            self.opening -= 1
            if epoch.current and offset >= 0:
                self._line.open(epoch, offset)
                self._source.start(epoch, offset)
                self._divide()

    def _leave_ended(self) -> None:
        ended = self._line.ledger.close_ended()
        for epoch in [epoch for epoch in self._backlog if not epoch.current]:
            del self._backlog[epoch]
        if ended:
            self._line.drop_waiting()
            self._divide()

    def _divide(self) -> None:
        partitions = len(self._line.ledger.epochs())
        self._line.encoded.divide(partitions)
        self._line.decoded.divide(partitions)
        self._line.fetches.divide(partitions)

    def _admit(self) -> int:
        """Round robin, one record a partition and turn, as far as the bounds allow."""
        admitted = 0
        waiting = [epoch for epoch in self._backlog if self._may_admit(epoch)]
        while waiting:
            for epoch in list(waiting):
                backlog = self._backlog[epoch]
                if self._line.take(backlog.next()):
                    admitted += 1
                else:
                    backlog.clear()
                if not backlog.records:
                    del self._backlog[epoch]
                if not backlog.records or not self._may_admit(epoch):
                    waiting.remove(epoch)
        return admitted

    def _may_admit(self, epoch: Epoch) -> bool:
        ledger = self._line.ledger
        ahead = ledger.jobs_ahead(epoch)
        if self._line.neighbours.holds_back(epoch) or ahead >= self._options.max_jobs_ahead:
            return False
        if len(self._line.recall_inbox) >= _RECALL_BACKLOG:
            return False
        # The head of a partition always gets in: it is what the others of its partition wait for.
        return ahead == 0 or ledger.bytes < self._options.max_ledger_bytes

    def _hold_back(self) -> None:
        """Pause the partitions whose backlog is above its share of the bound; resume below half of it."""
        share = self._options.max_polled_bytes / max(1, len(self._line.ledger.epochs()))
        sizes = {epoch.partition: backlog.bytes for epoch, backlog in self._backlog.items()}
        if not self.admitting:
            full = {epoch.partition for epoch in self._line.ledger.epochs()}
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
