"""Detects stalls.

A worker is alive if it is idle, if its images progress, or if they wait for another service. While other images
progress, one image can hang forever. So each image also has a time limit for each working place. The intake measures
the time of header and decode itself, because an image may wait there for its partition's turn.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.pipeline.task import Task
from workers.ports import Clock

_FOR_MEMORY = ("wait-fetch", "wait-inspect", "wait-decode")
"""Images wait here for memory, of which those at "wait-caption" may keep some for hours."""
_DECODERS = ("inspect", "decode")
"""Images are here in a decoder, or in its queue."""


@dataclass(frozen=True, slots=True)
class Place:
    """A step or a queue in which an image is.

    Args:
        name: label in metrics and in `timings_ms`.
        works: whether the time of an image here is limited.
        in_turn: whether one thread handles one image after another. Then the time starts when the last image left.
        waits_on_others: whether the image waits for another service, which is no stall of this worker.
    """

    name: str
    works: bool = False
    in_turn: bool = False
    waits_on_others: bool = False


class TaskProgress:
    """Tracks the place of each task. Thread-safe.

    Args:
        lanes: whether there are background tasks.
    """

    def __init__(self, clock: Clock, places: Sequence[Place], lanes: bool = False) -> None:
        self._clock = clock
        self._places = tuple(places)
        self._lanes = lanes
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._background: Counter[str] = Counter()
        """Those of `_counts` that are background."""
        self.moved_at = clock.monotonic()
        # After removals at its front, a plain dict takes long to find its first item.
        self._here: dict[str, OrderedDict[Task, float]] = {place.name: OrderedDict() for place in places if place.works}
        self._left_at = {place.name: 0.0 for place in places if place.in_turn}

    def enter(self, task: Task) -> None:
        with self._lock:
            self._come((task,), task.stage)
            task.since = self.moved_at = self._clock.monotonic()
        task.hold("progress", lambda: self._end(task))

    def move(self, task: Task, stage: str) -> None:
        """Move a task to another place; record its time at the last."""
        self.move_all((task,), stage)

    def move_all(self, tasks: Sequence[Task], stage: str) -> None:
        now = self._clock.monotonic()
        for task in tasks:
            task.took(task.stage, now - task.since)
        here = self._here.get(stage)
        with self._lock:
            self._come(tasks, stage)
            for task in tasks:
                self._leave(task, now)
                if here is not None:
                    here[task] = now
        for task in tasks:
            task.stage, task.since = stage, now

    def moved(self) -> None:
        """Note other progress: an admitted record or a committed transaction."""
        with self._lock:
            self.moved_at = self._clock.monotonic()

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {place.name: self._counts[place.name] for place in self._places}

    def working(self) -> int:
        """Number of tasks that wait neither for a service nor behind those."""
        with self._lock:
            waits = _FOR_MEMORY if self._counts["wait-caption"] else ()
            moving = [place.name for place in self._places if not place.waits_on_others and place.name not in waits]
            return sum(self._counts[name] for name in moving)

    def live_waits(self, decoders: int) -> bool:
        """Whether a live task waits for this worker: in a queue, or while this many are decoded."""
        with self._lock:
            live = {place.name: self._counts[place.name] - self._background[place.name] for place in self._places}
        waiting = [place.name for place in self._places if not place.works and not place.waits_on_others]
        return any(live[name] for name in waiting) or sum(live[name] for name in _DECODERS) > decoders

    def background(self) -> int:
        """Number of background tasks that wait for no service."""
        with self._lock:
            return sum(self._background[place.name] for place in self._places if not place.waits_on_others)

    def stuck(self, limits_s: Mapping[str, float]) -> list[str]:
        """One sentence for each place whose oldest task exceeds the limit."""
        now = self._clock.monotonic()
        with self._lock:
            first = {stage: next(iter(self._here[stage].items()), None) for stage in limits_s}
            seconds = {
                stage: now - max(found[1], self._left_at.get(stage, 0.0)) for stage, found in first.items() if found
            }
        return [
            f"{stage} has worked on one image for {seconds[stage]:.0f} s: {found[0].job.coordinates}"
            for stage, found in first.items()
            if found and seconds[stage] > limits_s[stage]
        ]

    def first_s(self, *stages: str) -> float:
        """Seconds since the oldest image came to these places; 0: there is none."""
        with self._lock:
            return self._clock.monotonic() - min(
                (next(iter(here.values())) for stage in stages if (here := self._here[stage])),
                default=self._clock.monotonic(),
            )

    def _end(self, task: Task) -> None:
        now = self._clock.monotonic()
        task.took(task.stage, now - task.since)
        with self._lock:
            self._leave(task, now)

    def _come(self, tasks: Sequence[Task], stage: str) -> None:
        self._counts[stage] += len(tasks)
        if self._lanes:
            self._background[stage] += sum(task.background for task in tasks)

    def _leave(self, task: Task, now: float) -> None:
        self._counts[task.stage] -= 1
        if self._lanes:
            self._background[task.stage] -= task.background
        self.moved_at = now
        if task.stage in self._here:
            del self._here[task.stage][task]
        if task.stage in self._left_at:
            self._left_at[task.stage] = now
