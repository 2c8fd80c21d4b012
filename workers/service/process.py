"""The process's resources: descriptors, slots, signals, and the output of libraries."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Protocol, Self, TextIO
from urllib.parse import quote

from workers import metrics
from workers.errors import Misconfigured
from workers.service.logs import TEXT_CHARS, flush_logs
from workers.settings import Settings
from workers.types import Health

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)
_END = 0


class Process(Protocol):
    """A program's health, for any thread."""

    def alive(self) -> Health: ...

    def started(self) -> Health: ...

    def ready(self) -> Health: ...

    def turn_unready(self, reason: str) -> None:
        """It is about to be ended: be unready from now on."""


@contextmanager
def observed(process: Process, settings: Settings, instance: str, port: int | None) -> Iterator[None]:
    """Context with metrics, traces, health and the watchdog."""
    from workers import __version__
    from workers.service.http import Endpoint
    from workers.service.telemetry import make_telemetry
    from workers.service.watchdog import Watchdog

    exports = {"otlp_traces": settings.otlp_traces, "otlp_metrics": settings.otlp_metrics}
    telemetry = make_telemetry(instance=instance, version=__version__, **exports)
    telemetry.install()
    with ExitStack() as cleanup:
        cleanup.callback(telemetry.close)
        if port is not None:
            reports = {"/livez": process.alive, "/startupz": process.started, "/readyz": process.ready}
            pages = telemetry.metrics_page, telemetry.open_metrics_page
            endpoint = Endpoint(settings.http_host, port, reports, *pages)
            cleanup.callback(endpoint.close)
        watchdog = Watchdog(process.alive, unready=process.turn_unready)
        watchdog.start()
        cleanup.callback(watchdog.stop)
        yield


def leave_at_once(number: int) -> NoReturn:
    """End without draining, with exit code 130 or 143. Safe at any moment: uncommitted work comes again."""
    flush_logs()
    os._exit(128 + number)


@contextmanager
def stop_on_signals(stop: Callable[[], None], hurry: Callable[[int], None] = leave_at_once) -> Iterator[None]:
    """In the body, the first SIGTERM or SIGINT calls `stop`, others `hurry`.

    Both are called on a thread of their own, which reads signal numbers from a socket that the interpreter writes to in
    C. A handler in Python would run inside the main thread, could wait for a lock that it holds, and would not run at
    all during an endless wait. Only the main thread may enter.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    # In place of the default action, which would end the process: no more than the wake-up.
    before = {number: signal.signal(number, lambda *_: None) for number in STOPPING}
    thread = threading.Thread(target=_act, args=(told, stop, hurry), name="signals", daemon=True)
    thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGCHLD))  # a parent of workers blocks them
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        tell.send(bytes([_END]))
        thread.join()
        tell.close()
        told.close()


def _act(told: socket.socket, stop: Callable[[], None], hurry: Callable[[int], None]) -> None:
    stopping = False
    while (number := told.recv(1)[0]) != _END:
        if number not in STOPPING:
            continue
        if stopping:
            logger.warning("%s again: exiting without draining", signal.Signals(number).name)
            hurry(number)
        else:
            stopping = True
            logger.info("%s: draining; a second signal exits at once", signal.Signals(number).name)
            try:
                stop()
            except Exception:  # such as no thread for the deadline: without an end the signal would be lost
                logger.exception("the drain can't begin: exiting without it")
                hurry(number)


WANTED = 65536
"""More than any worker needs. Not without a bound: where the hard limit is a billion, programs that go through all
possible descriptors when they start a child take minutes."""

ENOUGH = 1024
"""Some 64 for probes, 2 for each fetch, 3 for each broker, 7 for each decoder, and a reserve for new decoders."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit, at most to `WANTED`, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        allowed = soft if soft != resource.RLIM_INFINITY else WANTED
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < ENOUGH:
        logger.warning(
            "only %d files and sockets may be open at once, which may be too few: raise the hard limit (ulimit -Hn, "
            "or the container runtime's nofile) to %d or more",
            allowed,
            ENOUGH,
        )
    return allowed


_STANDARD = (1, 2)
_END_S = 1.0
"""Seconds to wait at the end for the pipe's last bytes: a process that inherited it may hold it open."""


@contextmanager
def stray_output_logged() -> Iterator[TextIO]:
    """Log this process's standard output and error; yields the real standard error.

    Writers never wait, since some hold the interpreter's lock, which the reader needs: lines beyond the pipe's room are
    dropped. The real standard error stays open after the context, for the log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(standard) for standard in _STANDARD]
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    for standard in _STANDARD:
        os.dup2(theirs, standard)
    os.close(theirs)
    reader = threading.Thread(target=_log_lines, args=(ours,), name="stray-output", daemon=True)
    reader.start()
    try:
        yield open(kept[1], "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    finally:
        for stream in (sys.stdout, sys.stderr):  # what was printed meanwhile belongs into the log
            with suppress(OSError, ValueError):
                stream.flush()
        for standard, real in zip(_STANDARD, kept, strict=True):
            os.dup2(real, standard)
        reader.join(_END_S)
        os.close(kept[0])


def _log_lines(pipe: int) -> None:
    with open(pipe, "rb") as written:
        while line := written.readline(TEXT_CHARS):
            with suppress(Exception):  # without memory this line is lost, and later ones are not
                if text := line.decode("utf-8", "replace").strip():
                    metrics.STDERR_LINES.add(1, of="worker")
                    logger.warning("a library wrote: %s", text)


class Slot:
    """The first number with a free lock file. The kernel gives it back when the process ends.

    Raises Misconfigured: the folder can't be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.number, quoted = 0, quote(name, safe="")
            while (file := _lock(folder / f"{quoted}.{self.number}.lock")) is None:
                self.number += 1
            self._file = file
        except OSError as error:
            raise Misconfigured(
                f"TAGSTREAM_STATE_DIR: {error.filename or folder} can't be written: {error.strerror}. "
                "Name a folder that this user may write."
            ) from error

    def close(self) -> None:
        """Give the number back. The file stays: to remove it would let two hold the same name."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(path: Path) -> int | None:
    """The locked file's descriptor; None when another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # flock and not lockf: the latter is lost when any other descriptor of the file is closed in this process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def default_transactional_id(group: str, slot: Slot) -> str:
    """Group, host and slot: stable over restarts on this host, and different for each process on it."""
    return f"{group}-{socket.gethostname()}-{slot.number}"
