"""Ends a process that is stalled: says where every thread stands, turns unready, and exits with 3."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from workers.service.logs import TEXT_CHARS, flush_logs, is_json, log_stream
from workers.types import Health

logger = logging.getLogger(__name__)

STALLED = 3
"""Exit code of a broken device, of a stall, and of an end that does not come in time."""


@dataclass(eq=False)
class Watchdog:
    """Ends the process after `patience` bad answers of `alive` in a row.

    It asks twice in every `every_s` seconds.

    Answers are counted, not seconds: a process that was frozen or a machine that slept gets its chance to move on
    when it wakes. An `alive` that does not return is a stall too (a lock that is never released), but only after a
    longer silence, because on a starved machine it may just not have had its turn. What no thread can see is a C
    library that keeps the interpreter lock; then /livez doesn't answer either, and the orchestrator ends the process.

    Args:
        alive: progress by the pipeline's own clock; its bad answer already means "too long".
        unready: called with the reason before the end, so that no work is sent here meanwhile.
        patience: bad answers in a row.
        silence: looks, one every `every_s`, that found no new answer, in a row.
        leave: how to end; takes the exit code.
    """

    alive: Callable[[], Health]
    unready: Callable[[str], None]
    every_s: float = 1.0
    patience: int = 10
    silence: int = 60
    leave: Callable[[int], None] = os._exit
    stream: TextIO | None = None

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._answers = 0
        self._bad = 0
        self._latest: Health = Health(True)
        self._probe = threading.Thread(target=self._run_probe, name="watchdog-probe", daemon=True)
        self._watch = threading.Thread(target=self._count, name="watchdog", daemon=True)

    def start(self) -> None:
        self._probe.start()
        self._watch.start()

    def stop(self) -> None:
        self._stopped.set()
        self._watch.join(timeout=2 * self.every_s + 1)

    def _run_probe(self) -> None:
        """Thread `watchdog-probe`: may hang in `alive`, and is watched for it."""
        while not self._stopped.wait(self.every_s / 2):
            try:
                self._latest = self.alive()
            except Exception as error:  # noqa: BLE001  # a bad answer, which may pass like any other
                self._latest = Health(False, (f"the check for progress fails: {error!r}",))
            self._bad = 0 if self._latest.ok else self._bad + 1
            self._answers += 1

    def _count(self) -> None:
        """Thread `watchdog`: waits on nothing but time."""
        silent = seen = 0
        while not self._stopped.wait(self.every_s):
            silent, seen = (silent + 1 if self._answers == seen else 0), self._answers
            if self._bad >= self.patience or silent >= self.silence:
                self._end(Health(False, ("the check for progress does not return",)) if silent else self._latest)
                return

    def _end(self, report: Health) -> None:
        reason = "; ".join(report.reasons) or "no progress"
        self.unready(f"stalled: {reason}")
        leave_stalled(reason, leave=self.leave, stream=self.stream)


def end_within(seconds: float, reason: str) -> None:
    """Give the process this time to end by itself; then end it, and say why.

    For the time after a signal, when the thread that should end the process may be the one that hangs.
    """
    timer = threading.Timer(seconds, leave_stalled, args=(reason,))
    timer.name, timer.daemon = "deadline", True
    timer.start()


def leave_stalled(reason: str, *, leave: Callable[[int], None] = os._exit, stream: TextIO | None = None) -> None:
    """End the process here and now, with every thread's stack. Uncommitted records come again."""
    try:
        logger.critical("stalled: %s. Every thread's stack follows; exiting with %s, nothing is lost", reason, STALLED)
        flush_logs()
        _write_stacks(stream if stream is not None else log_stream())
    finally:  # a process without a free descriptor or memory may have no last words
        leave(STALLED)


def _write_stacks(stream: TextIO) -> None:
    """As faulthandler writes them; in a log of JSON lines as messages."""
    if not is_json():
        faulthandler.dump_traceback(file=stream, all_threads=True)
        stream.flush()
        return
    with open(os.memfd_create("stacks"), "w+", encoding="utf-8", errors="replace") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        for stacks in _packed(file.read().split("\n\n")):
            logger.critical("%s", stacks)
    flush_logs()


def _packed(stacks: Iterable[str]) -> Iterator[str]:
    """Join stacks up to a log line's length: lines are limited, too."""
    text = ""
    for stack in stacks:
        if text and len(text) + len(stack) > TEXT_CHARS - 2:
            yield text
            text = ""
        text = f"{text}\n\n{stack}".lstrip()
    yield text
