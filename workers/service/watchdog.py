"""Ends a process that is wedged: says where every thread stands, turns unready, and exits with 3."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from workers.service.health import Health, Report
from workers.service.logs import flush_logs

logger = logging.getLogger(__name__)

WEDGED = 3
"""Exit code of a broken device or a wedge."""


class Watchdog:
    """Asks `alive` every `every_s` seconds; after `patience` bad answers in a row the process ends.

    Answers are counted, not seconds: a process that was frozen or a machine that slept gets its chance to move on
    when it wakes. An `alive` that itself does not return counts as a bad answer. What it can't see is a C library
    that keeps the interpreter lock; then /livez doesn't answer either, and the orchestrator ends the process.

    Args:
        alive: progress by the pipeline's own clock; its bad answer already means "too long".
        unready: told the reason before the end, so that nobody sends us work meanwhile.
        leave: how to end; takes the exit code.
    """

    def __init__(
        self,
        alive: Callable[[], Report],
        *,
        unready: Callable[[str], None],
        every_s: float = 1.0,
        patience: int = 5,
        leave: Callable[[int], None] = os._exit,
        stream: TextIO | None = None,
    ) -> None:
        self._alive = alive
        self._unready = unready
        self._every_s = every_s
        self._patience = patience
        self._leave = leave
        self._stream = stream if stream is not None else sys.stderr
        self._stopped = threading.Event()
        self._answer: Report | None = None
        self._probe = threading.Thread(target=self._ask, name="watchdog-probe", daemon=True)
        self._watch = threading.Thread(target=self._count, name="watchdog", daemon=True)

    def start(self) -> None:
        self._probe.start()
        self._watch.start()

    def stop(self) -> None:
        self._stopped.set()
        self._watch.join(timeout=2 * self._every_s + 1)

    def _ask(self) -> None:
        """Thread `watchdog-probe`: may hang in `alive`, and is watched for it."""
        while not self._stopped.wait(self._every_s / 2):
            self._answer = self._alive()

    def _count(self) -> None:
        """Thread `watchdog`: waits on nothing but time."""
        bad = 0
        while not self._stopped.wait(self._every_s):
            answer, self._answer = self._answer, None
            bad = 0 if answer is not None and answer.ok else bad + 1
            if bad >= self._patience:
                self._end(answer or Health(False, ("the check for progress does not return",)))
                return

    def _end(self, report: Report) -> None:
        reason = "; ".join(report.reasons) or "no progress"
        self._unready(f"wedged: {reason}")
        logger.critical("wedged: %s. Every thread's stack follows; exiting with %s, nothing is lost", reason, WEDGED)
        flush_logs()
        faulthandler.dump_traceback(file=self._stream, all_threads=True)
        self._stream.flush()
        self._leave(WEDGED)
