"""One worker and its process: what `tagstream run` is, and each process of several."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from workers.environment import all_secrets
from workers.errors import DONE, Broken, Unavailable
from workers.service.logs import start_logging
from workers.service.process import (
    Slot,
    default_transactional_id,
    observed,
    raise_descriptor_limit,
    stop_on_signals,
    stray_output_logged,
)
from workers.service.watchdog import end_within
from workers.types import Health

if TYPE_CHECKING:
    from workers.pipeline.roles import ModelsByUse
    from workers.pipeline.worker import Worker
    from workers.settings import Settings

logger = logging.getLogger(__name__)

CLOSE_S = 18.0
"""Beyond the drain's time, for the end of threads and clients: a deployment's grace period gives them 20 s."""


def work(settings: Settings, until_idle_s: float | None = None, models: ModelsByUse | None = None) -> int:
    """Be one worker until it is asked to end; returns the exit code 0.

    Args:
        models: loaded ones; None: it loads them.

    Raises:
        TagstreamError: why it can't go on.
    """
    with stray_output_logged() as stderr:
        start_logging(settings.log_level, settings.log_format, secrets=all_secrets(settings), stream=stderr)
        try:
            _Process(settings, until_idle_s, models).run()
        except Unavailable as error:
            # The pipeline waits for its dependencies by itself; what arrives here is not cured by waiting.
            raise Broken(str(error)) from error
    return DONE


def set_apart_what_is_imported() -> None:
    """Begin to collect garbage, among later objects only."""
    gc.freeze()
    gc.enable()


def set_apart_what_is_loaded() -> None:
    """Spare the garbage collector the loaded models, as imports.

    CPython postpones a full collection until new objects are a quarter of the old ones. With all these counted as old,
    cycles that the clients leave behind pile up to 10 MB between two collections, and each stops every thread for as
    long as it takes to go through all. The second `collect` makes CPython count anew.
    """
    gc.collect()
    gc.freeze()
    gc.collect()


class _Process:
    """One worker's life: telemetry and endpoint, then models, then work."""

    def __init__(self, settings: Settings, until_idle_s: float | None, models: ModelsByUse | None = None) -> None:
        self._settings = settings
        self._models = models
        self._until_idle_s = until_idle_s
        self._stopping = threading.Event()
        self._worker: Worker | None = None
        self._stalled: str | None = None

    def run(self) -> None:
        raise_descriptor_limit()
        with ExitStack() as cleanup:
            from workers.intake.heap import keep_large_blocks

            keep_large_blocks()
            cleanup.enter_context(stop_on_signals(self.stop))
            transactional_id = cleanup.enter_context(self._identity())
            instance = f"{transactional_id}@{socket.gethostname()}"
            cleanup.enter_context(observed(self, self._settings, instance, self._settings.http_port))
            # Only now, because it brings torch, which takes seconds: meanwhile we can be probed and stopped.
            from schemas.enriched_image import USES
            from workers.assembly.composition import Stopped, compose

            set_apart_what_is_imported()
            uses = {use: getattr(self._settings, use) for use in USES} | {**self._settings.roles}
            logger.info("loading the models: %s", ", ".join(f"{use} {bundle}" for use, bundle in uses.items()))
            worker = compose(
                self._settings, transactional_id=transactional_id, stopping=self._stopping.is_set, models=self._models
            )
            self._worker = worker
            set_apart_what_is_loaded()
            if self._stopping.is_set():
                return
            if self._until_idle_s is not None:
                threading.Thread(target=self._stop_when_idle, name="until-idle", daemon=True).start()
            try:
                worker.run()
            except Stopped:
                logger.info("stopped before the group was joined")
            finally:
                self._stopping.set()  # a thread may still wait for a broker

    def stop(self) -> None:
        if not self._stopping.is_set():
            seconds = self._settings.drain_s + CLOSE_S
            end_within(seconds, f"it did not end within {seconds:g} s of being asked to")
        self._stopping.set()
        if self._worker is not None:
            self._worker.stop()

    @contextmanager
    def _identity(self) -> Iterator[str]:
        """Our transactional id; by default group, host and a held slot."""
        if self._settings.transactional_id:
            yield self._settings.transactional_id
            return
        with Slot(self._settings.state_dir / "slots", self._settings.group) as slot:
            yield default_transactional_id(self._settings.group, slot)

    def alive(self) -> Health:
        return Health(True, ("starting",)) if self._worker is None else self._worker.progress()

    def started(self) -> Health:
        """Whether the models are warm. Kafka is not waited for: a restart would not help."""
        if self._worker is not None and self._worker.warm:
            return Health(True)
        return Health(False, ("loading the models" if self._worker is None else "warming up the models",))

    def ready(self) -> Health:
        if self._stalled is not None:
            return Health(False, (self._stalled,))
        if self._stopping.is_set():
            return Health(False, ("draining",))
        if self._worker is None:
            return Health(False, ("loading the models",))
        reason, notices = self._worker.unready(), self._worker.notices()
        idle_s = self._worker.idle_s() if self._settings.part.of > 1 else None
        return Health(True, notices, idle_s) if reason is None else Health(False, (reason, *notices))

    def turn_unready(self, reason: str) -> None:
        self._stalled = reason

    def _stop_when_idle(self) -> None:
        """Stop after `until_idle_s` without work, counted from being ready."""
        assert self._worker is not None
        assert self._until_idle_s is not None
        waited_s = 0.0
        while not self._stopping.wait(0.2):
            try:
                waited_s = waited_s + 0.2 if self._worker.ready else 0.0
                if min(waited_s, self._worker.idle_s()) >= self._until_idle_s:
                    logger.info("no event for %g s: draining", self._until_idle_s)
                    self.stop()
            except Exception as error:  # noqa: BLE001  # without this thread the worker would never end
                logger.warning("can't tell whether the worker is idle; trying again: %r", error)
