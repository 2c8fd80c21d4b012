"""The parent of several worker processes: starts them, starts them again, and ends with them.

It has one thread, so that it can fork at any time, and it only waits: for signals and for the end of its children.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import InitVar, dataclass

from workers.errors import MISCONFIGURED
from workers.service.process import STOPPING, leave_at_once

logger = logging.getLogger(__name__)

PROBES = 0
"""The number of the process that answers probes; workers have those from 1 on."""
WINDOW_S = 600.0
MOST_ENDINGS = 3
_LONGEST_PAUSE_S = 60.0
_TICK_S = 1.0
_WATCHED = (*STOPPING, signal.SIGCHLD)


class RecentExits:
    """The endings of each worker within the last ten minutes."""

    def __init__(self, workers: Collection[int]) -> None:
        self._of: dict[int, list[tuple[float, int]]] = {number: [] for number in workers}

    def add(self, number: int, code: int, now: float) -> float:
        """Note an ending; returns the seconds until this worker starts again."""
        for endings in self._of.values():
            endings[:] = [ending for ending in endings if ending[0] > now - WINDOW_S]
        self._of[number].append((now, code))
        return min(_LONGEST_PAUSE_S, 2.0 ** (len(self._of[number]) - 1))

    def hopeless(self) -> bool:
        """Whether every worker has ended three times."""
        return all(len(endings) >= MOST_ENDINGS for endings in self._of.values())

    def worst(self) -> int:
        """The highest exit code."""
        return max((code for endings in self._of.values() for _, code in endings), default=0)


@dataclass(eq=False)
class Parent:
    """Keeps worker processes running until it is asked to end.

    Args:
        start: starts the process of a number and returns its process id.
        probes: the process id of `PROBES`, if there is one.
        end_s: seconds that workers have to end by themselves.
        idle: asked once a second; true drains all.
    """

    start: Callable[[int], int]
    workers: InitVar[Collection[int]]
    probes: InitVar[int | None]
    end_s: float
    idle: Callable[[], bool] = lambda: False

    def __post_init__(self, workers: Collection[int], probes: int | None) -> None:
        self._endings = RecentExits(workers)
        self._due = dict.fromkeys(workers, 0.0)
        self._running = {} if probes is None else {probes: PROBES}
        """Numbers by process id."""
        self._kill_at: float | None = None
        """Set while all are to end."""
        self._code = 0

    def run(self) -> int:
        """Work until all workers have ended; returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # they are taken by `sigtimedwait` alone
        while self._kill_at is None or set(self._running.values()) - {PROBES}:
            self._start_due()
            told = signal.sigtimedwait(_WATCHED, _TICK_S)
            if told is not None and told.si_signo in STOPPING:
                self._on_signal(told.si_signo)
            self._reap()
            if self._kill_at is None and self.idle():
                logger.info("all workers are idle: draining")
                self._drain()
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._send(signal.SIGKILL)
        return self._code

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now]:
            del self._due[number]
            pid = self.start(number)
            self._running[pid] = number
            if number != PROBES:
                logger.info("worker %d is process %d", number, pid)

    def _on_signal(self, number: int) -> None:
        if self._kill_at is not None:
            logger.warning("%s again: exiting without draining", signal.Signals(number).name)
            leave_at_once(number)  # the workers end with this process
        logger.info("%s: draining; a second signal exits at once", signal.Signals(number).name)
        self._drain()

    def _drain(self, code: int = 0) -> None:
        self._code = code
        self._due.clear()
        self._kill_at = time.monotonic() + self.end_s
        self._send(signal.SIGTERM)

    def _send(self, which: signal.Signals) -> None:
        for pid, number in self._running.items():
            if number != PROBES:
                os.kill(pid, which)

    def _reap(self) -> None:
        """Take the codes of all ended children; as a container's first process, of foreign ones too."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if (number := self._running.pop(pid, None)) is not None:
                self._on_ended(number, code if code >= 0 else 128 - code)

    def _on_ended(self, number: int, code: int) -> None:
        if number == PROBES:
            logger.warning("the process that answers probes ended with exit code %d; starting it again", code)
            self._due[PROBES] = time.monotonic() + _TICK_S
        elif self._kill_at is not None:
            self._code = self._code or code
        elif code == MISCONFIGURED:
            logger.error("worker %d ended with exit code %d: ending all", number, code)
            self._drain(code)
        else:
            pause_s = self._endings.add(number, code, time.monotonic())
            if self._endings.hopeless():
                logger.error("every worker ended %d times within ten minutes: ending", MOST_ENDINGS)
                self._drain(self._endings.worst())
            else:
                logger.warning("worker %d ended with exit code %d; starting it again in %g s", number, code, pause_s)
                self._due[number] = time.monotonic() + pause_s
