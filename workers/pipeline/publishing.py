"""The publish thread's work: it owns the way out, and is the only one that reads or writes committed offsets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from workers import metrics
from workers.errors import Unpublished
from workers.pipeline.batching import Inbox
from workers.pipeline.line import Line
from workers.pipeline.options import WorkerOptions
from workers.ports import Publisher
from workers.vocabulary import Epoch

_log = logging.getLogger(__name__)


class Publishing:
    """Takes runs from the ledger, publishes them, and finds out the truth after anything unclear.

    Args:
        opening, opened: epochs that begin, and the offsets to begin at (see `Poller`).
        ending: whether the process ends and nobody waits for the truth any more.
    """

    def __init__(
        self,
        publisher: Publisher,
        line: Line,
        options: WorkerOptions,
        opening: Inbox[Epoch],
        opened: Inbox[tuple[Epoch, int]],
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._publisher = publisher
        self._line = line
        self._options = options
        self._opening = opening
        self._opened = opened
        self._ending = ending

    def step(self) -> bool:
        """One turn; waits a moment when there is nothing to do. True when a run was published."""
        self._open()
        taken = self._line.ledger.take(self._options.run_outcomes, self._options.run_bytes)
        if taken is None:
            self._line.ledger.wait(0.05)
            return False
        started = time.perf_counter()
        try:
            self._publisher.publish(taken.run)
        except Unpublished as error:
            metrics.RUNS_FAILED.add(cause=error.cause)
            _log.warning("%r was not published (%s): asking the broker what is committed", taken.run, error)
            self._reconcile()
            return False
        self._line.ledger.settle(taken)
        metrics.PUBLISH_SECONDS.record(time.perf_counter() - started)
        metrics.RUNS.add()
        self._line.settle(taken.entries)
        return True

    def _open(self) -> None:
        """Answer where newly assigned partitions are to be read from.

        An answer that does not come (a dead owner's transaction is pending) has cost seconds: the others wait for the
        next turn, so that the partitions that we work on go on being published.
        """
        while epochs := self._opening.take(1, 0):
            epoch = epochs[0]
            offset = self._publisher.committed(epoch) if epoch.current else None
            if offset is None and epoch.current:
                self._opening.put(epoch)
                return
            self._opened.put((epoch, -1 if offset is None else offset))

    def _reconcile(self) -> None:
        """A new producer under the same id, then the committed offsets decide what is still to be published."""
        metrics.RECOVERIES.add()
        self._publisher.recover()
        self._line.render_again()
        for epoch in self._line.ledger.epochs():
            committed = self._truth(epoch)
            if committed is not None:
                gone = self._line.ledger.rewind(epoch, committed)
                if gone:
                    metrics.RUNS.add()
                    self._line.settle(gone)

    def _truth(self, epoch: Epoch) -> int | None:
        """The epoch's committed offset, however long that takes; None: it ends, or we do.

        A partition whose transaction never ends must not stop the others for ever: its epoch ends, and the next one
        waits to be opened while we work on.
        """
        while epoch.current and not self._ending():
            committed = self._publisher.committed(epoch)
            if committed is not None:
                return committed
            if epoch in self._publisher.lost:
                _log.error("%s: giving up what is in hand of it", self._publisher.lost[epoch])
                epoch.end()
        return None
