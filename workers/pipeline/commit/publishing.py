"""The publish thread's work: publishes outcomes, and alone reads or writes committed offsets."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from workers import metrics
from workers.errors import Unpublished
from workers.pipeline.flow.queue import StageQueue
from workers.pipeline.options import WorkerOptions
from workers.pipeline.pipeline import Pipeline
from workers.ports import Publisher
from workers.types import Assignment, Transaction

_log = logging.getLogger(__name__)


class Publishing:
    """Publishes what is ready in the ledger; after anything unclear it asks the broker what is committed.

    Args:
        opening, opened: assignments that begin, and the offsets to begin at (see `Poller`).
        ending: whether the process ends and waits for no answer any more.
    """

    def __init__(
        self,
        publisher: Publisher,
        pipeline: Pipeline,
        options: WorkerOptions,
        opening: StageQueue[Assignment],
        opened: StageQueue[tuple[Assignment, int]],
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._publisher = publisher
        self._pipeline = pipeline
        self._options = options
        self._opening = opening
        self._opened = opened
        self._ending = ending
        metrics.TRANSACTIONS.begin()

    def step(self) -> bool:
        """One turn; waits a moment when there is nothing to do. True when a transaction was published."""
        self._open()
        ready = self._pipeline.ledger.ready(self._options.transaction_outcomes, self._options.transaction_bytes)
        if ready is None:
            self._pipeline.ledger.wait(0.05)
            return False
        started = time.perf_counter()
        try:
            self._publisher.publish(ready.transaction)
        except Unpublished as error:
            _count(ready.transaction, time.perf_counter() - started, error.cause)
            metrics.TRANSACTIONS_FAILED.add(cause=error.cause)
            _log.warning(
                "a transaction of %s was not published (%s): asking what is committed", ready.transaction, error
            )
            self._reconcile()
            return False
        self._pipeline.ledger.settle(ready)
        _count(ready.transaction, time.perf_counter() - started)
        metrics.TRANSACTIONS.add()
        self._pipeline.settle(ready.entries)
        return True

    def _open(self) -> None:
        """Answer where newly assigned partitions are to be read from.

        An answer that does not come (a dead owner's transaction is pending) has cost seconds: the others wait for the
        next turn, so that the partitions that we work on go on being published.
        """
        while assignments := self._opening.take(1):
            assignment = assignments[0]
            offset = self._publisher.committed(assignment) if assignment.current else None
            if offset is None and assignment.current:
                self._opening.put(assignment)
                return
            self._opened.put((assignment, -1 if offset is None else offset))

    def _reconcile(self) -> None:
        """A new producer under the same id, then the committed offsets decide what is still to be published."""
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
        """The assignment's committed offset, however long that takes; None: it ends, or we do.

        A partition whose transaction never ends must not stop the others for ever: its assignment ends, and the next
        one waits to be opened while we work on.
        """
        while assignment.current and not self._ending():
            committed = self._publisher.committed(assignment)
            if committed is not None:
                return committed
            if assignment in self._publisher.lost:
                _log.error("%s: giving up what is in hand of it", self._publisher.lost[assignment])
                assignment.end()
        return None


def _count(transaction: Transaction, seconds: float, error: str | None = None) -> None:
    """Measure a transaction that was published, or that failed for this cause."""
    metrics.OPERATION_SECONDS.record(seconds, **metrics.messaging("publish", error=error))
    for topic, count in Counter(message.topic for message in transaction.messages).items():
        metrics.SENT_MESSAGES.add(count, **metrics.messaging("send", topic=topic, error=error))
