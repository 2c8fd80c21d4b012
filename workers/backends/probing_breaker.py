"""A circuit breaker that probes on a thread of its own.

So no caller ever waits for a dead dependency.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from workers import metrics
from workers.breaker import STATES, Breaker

logger = logging.getLogger(__name__)


class ProbingBreaker:
    """Open after one failure; closed again by a probe that succeeds. Thread-safe. Shown in `metrics.BREAKERS` from its
    making to its `close`.

    Probes come after `first_pause_s`, then after twice the pause before, up to `last_pause_s`. Only calls that
    succeed make it start from the shortest pause again, so a dependency that answers probes and fails at work is left
    alone for longer and longer.

    Args:
        name: the server behind it, for the log.
        dependency: the server behind it, for the metrics: "redis".
        probe: asks the dependency for a sign of life; whether it came. Must be bounded in time and not raise.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], bool],
        *,
        dependency: str = "redis",
        first_pause_s: float = 0.2,
        last_pause_s: float = 5.0,
    ) -> None:
        self._name = name
        self._probe = probe
        self._lock = threading.Lock()
        self._breaker = Breaker(first_pause_s, last_pause_s, opens_after=1, jitter=0.0)
        self._dependency = dependency
        self._closing = threading.Event()
        metrics.BREAKERS.add(self._states)

    def closed(self) -> bool:
        """Whether calls may go through."""
        return self._breaker.state == "closed"

    def success(self) -> None:
        """A call was answered. One that was made before it opened closes nothing: the probe does."""
        with self._lock:
            if self.closed():
                self._breaker.succeeded(time.monotonic())

    def failure(self, cause: str) -> None:
        """Open, unless it is open."""
        with self._lock:
            if self._closing.is_set() or not self._breaker.failed(self._name, time.monotonic()):
                return
        logger.warning("%s failed: %s; continuing without it until it answers a probe", self._name, cause)
        try:
            threading.Thread(target=self._probe_until_well, name="tagstream-probe", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # no thread is left: the next failure tries to start one again
            logger.warning("no thread to probe %s can be started, so it is asked again at once: %s", self._name, error)
            with self._lock:
                self._breaker.probe_answered(time.monotonic())

    def close(self) -> None:
        """End the probing, and be shown no longer."""
        self._closing.set()
        metrics.BREAKERS.remove(self._states)

    def _states(self) -> list[metrics.Reading]:
        now = self._breaker.state
        return [(float(state == now), {"dependency": self._dependency, "state": state}) for state in STATES]

    def _probe_until_well(self) -> None:
        told = False
        while not self._closing.wait(self._breaker.pause_s(time.monotonic())):
            try:
                if self._closed_by_probe():
                    return
            except Exception as error:  # noqa: BLE001  # without this thread it would stay open for ever
                with self._lock:
                    self._breaker.probe_failed(time.monotonic())
                if not told:
                    logger.warning("a probe of %s failed by itself; the next ones follow: %r", self._name, error)
                told = True

    def _closed_by_probe(self) -> bool:
        with self._lock:
            self._breaker.probe(time.monotonic())
        answered = self._probe()
        if answered:
            logger.info("%s is back", self._name)
        with self._lock:
            if answered:
                self._breaker.probe_answered(time.monotonic())
            else:
                self._breaker.probe_failed(time.monotonic())
        return answered
