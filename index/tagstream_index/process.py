"""`tagstream index run`: the indexer and its process."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from contextlib import ExitStack

from tagstream_index.indexer import Indexer
from tagstream_index.settings import IndexSettings
from workers import __version__, metrics
from workers.assembly.clients import record_source
from workers.backends.kafka import KafkaRecordSource
from workers.errors import Broken, Unavailable
from workers.service.process import observed, raise_descriptor_limit, stop_on_signals
from workers.service.watchdog import end_within
from workers.types import Health

logger = logging.getLogger(__name__)

STALLED_S = 60.0
"""Longer than any turn of the indexer: each of its calls has a time limit."""
_CLOSE_S = 20.0


class IndexProcess:
    """One indexer's life: telemetry and endpoint, then the brokers, then work."""

    def __init__(self, settings: IndexSettings, until_idle_s: float | None) -> None:
        self._settings = settings
        self._until_idle_s = math.inf if until_idle_s is None else until_idle_s
        self._stopping = threading.Event()
        self._indexer: Indexer | None = None
        self._unready = ""

    def run(self) -> None:
        raise_descriptor_limit()
        with ExitStack() as cleanup:
            cleanup.enter_context(stop_on_signals(self.stop))
            instance = f"{self._settings.index_group}@{socket.gethostname()}:{os.getpid()}"
            cleanup.enter_context(observed(self, self._settings, instance, self._settings.index_http_port))
            ours, doing = self._settings, "tagstream index %s: reads %s as group %s; writes the schema %s of %s"
            places = ours.output_topic, ours.index_group, ours.index_schema, ours.index_dsn
            logger.info(doing, __version__, *places)
            if (source := self._source()) is not None:
                cleanup.callback(source.close)
                self._index(source)

    def stop(self) -> None:
        if not self._stopping.is_set():
            end_within(_CLOSE_S, f"it did not end within {_CLOSE_S:g} s of being asked to")
        self._stopping.set()

    def alive(self) -> Health:
        """Whether the indexer's thread comes back from its calls."""
        indexer = self._indexer
        stands_s = 0.0 if indexer is None else time.monotonic() - indexer.turned_at
        stalled = () if stands_s < STALLED_S else (f"the indexer has not moved for {stands_s:.0f} s",)
        return Health(not stalled, stalled)

    def started(self) -> Health:
        return Health(True)

    def ready(self) -> Health:
        if self._unready or self._stopping.is_set():
            return Health(False, (self._unready or "stopping",))
        reason = "no broker was reached yet" if self._indexer is None else self._indexer.unready()
        return Health(True) if reason is None else Health(False, (reason,))

    def turn_unready(self, reason: str) -> None:
        self._unready = reason

    def _source(self) -> KafkaRecordSource | None:
        """The enriched topic, once a broker answers; None if stopped before."""
        while not self._stopping.is_set():
            try:
                return record_source(self._settings, self._settings.index_group, [self._settings.output_topic])
            except Unavailable as error:
                logger.warning("waiting: %s", error)
        return None

    def _index(self, source: KafkaRecordSource) -> None:
        self._indexer = indexer = Indexer(self._settings, source)
        try:
            with metrics.shown({metrics.INDEX_LAG: indexer.lag}):
                indexer.run(lambda: self._stopping.is_set() or indexer.idle_s() >= self._until_idle_s)
        except Unavailable as error:
            raise Broken(str(error)) from error  # passing faults were waited for
