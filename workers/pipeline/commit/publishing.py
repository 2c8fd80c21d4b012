"""Publishes outcomes. Only the publish thread reads and writes committed offsets."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from workers import metrics
from workers.errors import Unpublished
from workers.pipeline.commit.ledger import Publishable
from workers.pipeline.commit.work import Work
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.ports import Publisher
from workers.types import Assignment, Transaction

_log = logging.getLogger(__name__)

_TURN_S = 0.05
"""Longest wait of a turn, in seconds. New assignments start between two turns."""
PAUSE = 3.0
"""Pause after a commit, as a multiple of the commit's duration. More outcomes join the next transaction."""
LONGEST_PAUSE_S = 0.2
"""Longest pause after a commit, in seconds."""


@dataclass(eq=False)
class Publishing:
    """Publishes ready outcomes. After a failed transaction, it reads the committed offsets.

    Args:
        ending: whether the process ends; then there is no waiting for brokers.
    """

    publisher: Publisher
    pipeline: Work
    options: WorkerOptions
    opening: StageQueue[Assignment]
    opened: StageQueue[tuple[Assignment, int]]
    ending: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._next_at = {False: 0.0, True: 0.0}
        """When the next transaction of a lane need not wait for more, by whether the lane is background."""
        metrics.TRANSACTIONS.begin()

    def step(self) -> bool:
        """Publish one transaction, or wait shortly; True: it was published."""
        self._open()
        ready = self.pipeline.ledger.ready(self.options.transaction_outcomes, self.options.transaction_bytes)
        if ready is None:
            self.pipeline.ledger.wait(_TURN_S)
            return False
        if (left_s := self._waits_for_more_s(ready)) > 0:
            more = self.options.transaction_outcomes - len(ready.transaction.messages)
            self.pipeline.ledger.wait_for_more(min(left_s, _TURN_S), more, background=ready.background)
            return False
        started = self.now()
        try:
            self.publisher.publish(ready.transaction)
        except Unpublished as error:
            _count(ready.transaction, self.now() - started, error.cause)
            metrics.TRANSACTIONS_FAILED.add(cause=error.cause)
            _log.warning(
                "a transaction of %s failed (%s): reading which offsets are committed", ready.transaction, error
            )
            self._reconcile()
            return False
        self.pipeline.ledger.settle(ready)
        took_s = self.now() - started
        self._next_at[ready.background] = self.now() + min(PAUSE * took_s, LONGEST_PAUSE_S)
        _count(ready.transaction, took_s)
        metrics.TRANSACTIONS.add()
        self.pipeline.settle(ready.entries)
        return True

    def _waits_for_more_s(self, ready: Publishable) -> float:
        """Seconds to wait for more outcomes; 0 if no other record of the lane is in progress.

        Even a small transaction takes about ten milliseconds, as much as an image takes in a small model.
        """
        if ready.full or not ready.awaits:
            return 0.0
        return self._next_at[ready.background] - self.now()

    def _open(self) -> None:
        """Read the committed offsets of new assignments.

        If the broker does not answer, the remaining assignments wait for the next turn. A failed request takes seconds,
        and finished outcomes must not wait for several.
        """
        while assignments := self.opening.take(1):
            assignment = assignments[0]
            offset = self.publisher.committed(assignment) if assignment.current else None
            if offset is None and assignment.current:
                self.opening.put(assignment)
                return
            self.opened.put((assignment, -1 if offset is None else offset))

    def _reconcile(self) -> None:
        """Replace the producer, and drop the entries that were committed."""
        metrics.RECOVERIES.add()
        self.publisher.recover()
        self.pipeline.render_again()
        for assignment in self.pipeline.ledger.assignments():
            committed = self._await_committed(assignment)
            if committed is not None:
                gone = self.pipeline.ledger.rewind(assignment, committed)
                if gone:
                    metrics.TRANSACTIONS.add()
                    self.pipeline.settle(gone)

    def _await_committed(self, assignment: Assignment) -> int | None:
        """Wait for the committed offset; None: the assignment or the process has ended.

        If a transaction on the partition never ends, the assignment ends here, so that other partitions continue.
        """
        while assignment.current and not self.ending():
            committed = self.publisher.committed(assignment)
            if committed is not None:
                return committed
            if assignment in self.publisher.lost:
                _log.error("%s: dropping its records in progress", self.publisher.lost[assignment])
                assignment.end()
        return None


def _count(transaction: Transaction, seconds: float, error: str | None = None) -> None:
    """Count a transaction in the metrics; `error` is the cause of its failure."""
    metrics.OPERATION_SECONDS.record(seconds, **metrics.messaging("publish", error=error))
    for topic, count in Counter(message.topic for message in transaction.messages).items():
        metrics.SENT_MESSAGES.add(count, **metrics.messaging("send", topic=topic, error=error))
