"""The publish thread's work: publishes outcomes, and alone reads or writes committed offsets."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

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
"""Most seconds that a turn waits: assignments are opened between turns."""
PAUSE = 3.0
"""Pause after a commit, as a multiple of its time, while more outcomes could join the next one."""
LONGEST_PAUSE_S = 0.2
"""Longest pause after a commit, in seconds."""


class Publishing:
    """Publishes ready outcomes; after an unclear commit, reads the committed offsets.

    Args:
        opening, opened: new assignments, and their start offsets (see `Poller`).
        ending: whether the process ends; then no answer is awaited.
        now: monotonic seconds.
    """

    def __init__(
        self,
        publisher: Publisher,
        pipeline: Work,
        options: WorkerOptions,
        opening: StageQueue[Assignment],
        opened: StageQueue[tuple[Assignment, int]],
        ending: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._publisher = publisher
        self._pipeline = pipeline
        self._options = options
        self._opening = opening
        self._opened = opened
        self._ending = ending
        self._now = now
        self._next_at = 0.0
        metrics.TRANSACTIONS.begin()

    def step(self) -> bool:
        """Take one turn, with a short wait; True if a transaction was published."""
        self._open()
        ready = self._pipeline.ledger.ready(self._options.transaction_outcomes, self._options.transaction_bytes)
        if ready is None:
            self._pipeline.ledger.wait(_TURN_S)
            return False
        if (left_s := self._waits_for_more_s(ready)) > 0:
            more = self._options.transaction_outcomes - len(ready.transaction.messages)
            self._pipeline.ledger.wait_for_more(min(left_s, _TURN_S), more)
            return False
        started = self._now()
        try:
            self._publisher.publish(ready.transaction)
        except Unpublished as error:
            _count(ready.transaction, self._now() - started, error.cause)
            metrics.TRANSACTIONS_FAILED.add(cause=error.cause)
            _log.warning(
                "a transaction of %s failed (%s): reading which offsets are committed", ready.transaction, error
            )
            self._reconcile()
            return False
        self._pipeline.ledger.settle(ready)
        took_s = self._now() - started
        self._next_at = self._now() + min(PAUSE * took_s, LONGEST_PAUSE_S)
        _count(ready.transaction, took_s)
        metrics.TRANSACTIONS.add()
        self._pipeline.settle(ready.entries)
        return True

    def _waits_for_more_s(self, ready: Publishable) -> float:
        """Seconds to wait for more outcomes before publishing.

        Even a small transaction costs worker and brokers some ten milliseconds: one for each image would cost as much
        as a small model. A single image does not wait.
        """
        if ready.full or not self._pipeline.ledger.under_way:
            return 0.0
        return self._next_at - self._now()

    def _open(self) -> None:
        """Find the start offset of each newly assigned partition.

        A missing answer (a dead owner's transaction is pending) costs seconds. Then the other new partitions wait for
        the next turn, so that open partitions are published meanwhile.
        """
        while assignments := self._opening.take(1):
            assignment = assignments[0]
            offset = self._publisher.committed(assignment) if assignment.current else None
            if offset is None and assignment.current:
                self._opening.put(assignment)
                return
            self._opened.put((assignment, -1 if offset is None else offset))

    def _reconcile(self) -> None:
        """Restart the producer under its id; publish again from the committed offsets."""
        metrics.RECOVERIES.add()
        self._publisher.recover()
        self._pipeline.render_again()
        for assignment in self._pipeline.ledger.assignments():
            committed = self._truth(assignment)
            if committed is not None:
                gone = self._pipeline.ledger.rewind(assignment, committed)
                if gone:
                    metrics.TRANSACTIONS.add()
                    self._pipeline.settle(gone)

    def _truth(self, assignment: Assignment) -> int | None:
        """Wait for the assignment's committed offset; None: assignment or process ends.

        A transaction that never ends must not stop the other partitions: this assignment ends, and the partition's next
        assignment waits to be opened while the others go on.
        """
        while assignment.current and not self._ending():
            committed = self._publisher.committed(assignment)
            if committed is not None:
                return committed
            if assignment in self._publisher.lost:
                _log.error("%s: dropping its records in progress", self._publisher.lost[assignment])
                assignment.end()
        return None


def _count(transaction: Transaction, seconds: float, error: str | None = None) -> None:
    """Record a transaction's time and messages, and its failure's cause."""
    metrics.OPERATION_SECONDS.record(seconds, **metrics.messaging("publish", error=error))
    for topic, count in Counter(message.topic for message in transaction.messages).items():
        metrics.SENT_MESSAGES.add(count, **metrics.messaging("send", topic=topic, error=error))
