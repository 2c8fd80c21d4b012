"""`tagstream run --workers N`: a parent, and processes that are each the worker of `workers.cli.one_worker`."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from workers.assembly.parts import Hardware, hardware, part_of, wanted_processes
from workers.cli.app import exit_code_of
from workers.cli.one_worker import CLOSE_S, set_apart_what_is_imported, set_apart_what_is_loaded, work
from workers.environment import all_secrets
from workers.service.gathering import Gathering, Idleness
from workers.service.http import ProbeServer, listen
from workers.service.logs import flush_logs, start_logging
from workers.service.parent import PROBES, Parent
from workers.service.process import STOPPING, raise_descriptor_limit
from workers.settings import Settings, WorkerPart
from workers.tied import tie_to

if TYPE_CHECKING:
    from workers.pipeline.roles import ModelsByUse

logger = logging.getLogger(__name__)

_PROGRAM = "from workers.cli.run_several import main; main()"
_LATE_S = 1.0
"""Seconds after which a worker's parent ends it, from when it should have ended itself."""


def run_several(settings: Settings, until_idle_s: float | None) -> int:
    """Run the workers to their end; returns the exit code. A single worker runs in this process."""
    found = cache(partial(hardware, settings.device))
    count = wanted_processes(settings, found)
    if count == 1:
        return work(settings, until_idle_s)
    start_logging(settings.log_level, settings.log_format, secrets=all_secrets(settings))
    raise_descriptor_limit()
    for number in STOPPING:
        signal.signal(number, lambda *_: sys.exit(0))  # no work has begun; `Parent.run` takes them from then on
    with tempfile.TemporaryDirectory(prefix="tagstream-") as folder:
        threads = max(1, found().threads // count)
        parts = [WorkerPart(number, count, Path(folder), threads) for number in range(1, count + 1)]
        starter = _Starter(settings, parts)
        probes = starter.start(PROBES) if settings.http_port is not None else None
        starter.load(found())
        parent = Parent(
            starter.start,
            [part.number for part in parts],
            probes=probes,
            end_s=settings.drain_s + CLOSE_S + _LATE_S,
            idle=(lambda: False) if until_idle_s is None else Idleness(parts, until_idle_s),
        )
        return parent.run()


class _Starter:
    """Starts processes: forked from this one where models run on processors, and else new ones.

    Raises Misconfigured: the port for probes is taken, or the address is not ours.
    """

    def __init__(self, settings: Settings, parts: Sequence[WorkerPart]) -> None:
        self._settings = settings
        self._parts = parts
        self._models: ModelsByUse | None = None
        self._listener = None if settings.http_port is None else listen(settings.http_host, settings.http_port)

    def load(self, found: Hardware) -> None:
        """Load the models for all processes, unless CUDA has them: its state can't be forked.

        A model computes with one thread here: more would be a pool of threads, which a fork loses.
        """
        if found.cuda_bytes:
            return
        from workers.assembly.composition import load_models
        from workers.service import telemetry  # noqa: F401  # children share what is imported here

        set_apart_what_is_imported()
        logger.info("loading the models for %d workers", len(self._parts))
        models = load_models(self._settings.model_copy(update={"part": WorkerPart(threads=1)}))
        set_apart_what_is_loaded()
        if len(os.listdir("/proc/self/task")) > 1:
            logger.warning("the workers share no memory: a library has started a thread in their parent")
        else:
            self._models = models

    def start(self, number: int) -> int:
        if number == PROBES:
            return _forked(self._answer_probes)
        settings = part_of(self._settings, self._parts[number - 1])
        if self._models is None:
            return _spawned(settings)
        return _forked(lambda: self._work(settings))

    def _answer_probes(self) -> int:
        assert self._listener is not None
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)  # it ends with its parent
        set_apart_what_is_imported()
        ProbeServer(self._listener, Gathering(self._parts).answer)
        logger.info("serving /livez, /startupz, /readyz and /metrics on %s:%s", *self._listener.getsockname()[:2])
        while True:
            signal.pause()

    def _work(self, settings: Settings) -> int:
        if self._listener is not None:
            self._listener.close()
        return work(settings, models=self._models)


def _forked(work: Callable[[], int]) -> int:
    """The process id of a fork that does this work and ends."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        tie_to(parent)
        code = exit_code_of(work)
    finally:  # the stack below is the parent's
        _leave(code)


def _spawned(settings: Settings) -> int:
    plan = os.memfd_create("tagstream-settings")
    try:
        os.write(plan, pickle.dumps((settings, os.getpid())))
        os.lseek(plan, 0, os.SEEK_SET)
        command = [sys.executable, "-c", _PROGRAM]
        given = [(os.POSIX_SPAWN_DUP2, plan, 0)]
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=given, setsid=True)
    finally:
        os.close(plan)


def main() -> None:
    """Be the worker whose settings are on standard input."""
    settings, parent = pickle.load(sys.stdin.buffer)
    tie_to(parent)
    _leave(exit_code_of(lambda: work(settings)))


def _leave(code: int) -> NoReturn:
    flush_logs()
    sys.stdout.flush()
    os._exit(code)
