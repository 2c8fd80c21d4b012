"""Is the line getting on? Alive means idle, or something moved within the clock, or all wait on a neighbour."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from workers import metrics
from workers.pipeline.task import Task
from workers.ports import Clock

STAGES = (
    "recall",
    "wait-fetch",
    "fetch",
    "wait-decode",
    "decode",
    "wait-device",
    "annotate",
    "finish",
    "wait-equal",
    "wait-neighbour",
)
_WAITS_ON_OTHERS = ("wait-neighbour",)


@dataclass(frozen=True, slots=True)
class Progress:
    """An answer to "are you alive?". `reasons` says what stands still; `in_flight` counts pictures by stage."""

    ok: bool
    reasons: tuple[str, ...]
    in_flight: dict[str, int]


class Stages:
    """Where the tasks are, and when one last moved. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._moved_at = clock.monotonic()
        self._idle_since = self._moved_at

    def enter(self, task: Task) -> None:
        with self._lock:
            self._counts[task.stage] += 1
            task.since = self._moved_at = self._clock.monotonic()

    def move(self, task: Task, stage: str) -> None:
        """Note the time that the last stage took (waits are a stage too) and begin the next."""
        now = self._clock.monotonic()
        task.took(task.stage, now - task.since)
        with self._lock:
            self._counts[task.stage] -= 1
            self._counts[stage] += 1
            self._moved_at = now
        task.stage, task.since = stage, now

    def leave(self, task: Task) -> None:
        now = self._clock.monotonic()
        task.took(task.stage, now - task.since)
        with self._lock:
            self._counts[task.stage] -= 1
            self._moved_at = now

    def moved(self) -> None:
        """Something else got on: a record was taken, a run was published."""
        with self._lock:
            self._moved_at = self._clock.monotonic()

    @property
    def moved_at(self) -> float:
        return self._moved_at

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {stage: self._counts[stage] for stage in STAGES}

    def working(self) -> int:
        """Tasks that wait for nobody but us."""
        with self._lock:
            return sum(count for stage, count in self._counts.items() if stage not in _WAITS_ON_OTHERS)

    def report(self) -> None:
        for stage, count in self.counts().items():
            metrics.IN_FLIGHT.set(count, stage=stage)
