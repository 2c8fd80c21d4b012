"""Liveness: idle, moved within the clock, or waiting on a dependency.

That much is true of the pipeline as a whole while one image is stuck for ever: a decoder that hangs holds back its
partition alone. So each image has a clock as well, in the stages where it waits for this worker alone.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.pipeline.task import Task
from workers.ports import Clock


@dataclass(frozen=True, slots=True)
class Place:
    """A place of an image in the pipeline, by its metrics' name.

    Args:
        works: an image there is worked on, or is queued for a thread of ours: it has a limit in time.
        waits_on_others: a dependency has to move first; however long that takes, this worker does not stand still.
    """

    name: str
    works: bool = False
    waits_on_others: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """An answer to "are you alive?". `reasons` says what stands still; `in_flight` counts images by place."""

    ok: bool
    reasons: tuple[str, ...]
    in_flight: dict[str, int]


class _AtWork:
    """The tasks in one working stage, each with its latest possible start.

    Work begins in the order of arrival, but only the working thread knows when. What can be told from outside: the
    first of those that are there is at work, and so is every one that was overtaken. So time in a queue does not count
    towards the stall timeout, and no task is looked at but those that come and go.
    """

    __slots__ = ("_begun", "_queue")

    def __init__(self) -> None:
        # A dict finds its first item ever more slowly while items leave at its front.
        self._queue: OrderedDict[Task, None] = OrderedDict()
        self._begun: OrderedDict[Task, float] = OrderedDict()

    def enter(self, task: Task, now: float) -> None:
        self._queue[task] = None
        self._begin_first(now)

    def leave(self, task: Task, now: float) -> None:
        if task in self._begun:
            del self._begun[task]
        else:
            while (overtaken := next(iter(self._queue))) is not task:
                self._begin(overtaken, now)
            del self._queue[task]
        self._begin_first(now)

    def longest(self) -> tuple[Task, float] | None:
        """The task that has been at work for longest, and since when."""
        return next(iter(self._begun.items()), None)

    def _begin_first(self, now: float) -> None:
        if not self._begun and self._queue:
            self._begin(next(iter(self._queue)), now)

    def _begin(self, task: Task, now: float) -> None:
        del self._queue[task]
        self._begun[task] = now


class TaskProgress:
    """Where the tasks are, and when one last moved. Thread-safe."""

    def __init__(self, clock: Clock, places: Sequence[Place]) -> None:
        self._clock = clock
        self._places = tuple(places)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._moved_at = clock.monotonic()
        self._at_work = {place.name: _AtWork() for place in places if place.works}

    def enter(self, task: Task) -> None:
        """Track a task until its end."""
        with self._lock:
            self._counts[task.stage] += 1
            task.since = self._moved_at = self._clock.monotonic()
        task.hold("progress", lambda: self._end(task))

    def move(self, task: Task, stage: str) -> None:
        """Record how long the last stage took (waits are stages too); begin the next."""
        self.move_all((task,), stage)

    def move_all(self, tasks: Sequence[Task], stage: str) -> None:
        """`move` all of them at one moment."""
        now = self._clock.monotonic()
        for task in tasks:
            task.took(task.stage, now - task.since)
        at_work = self._at_work.get(stage)
        with self._lock:
            self._counts[stage] += len(tasks)
            for task in tasks:
                self._leave(task, now)
                if at_work is not None:
                    at_work.enter(task, now)
        for task in tasks:
            task.stage, task.since = stage, now

    def moved(self) -> None:
        """Note other progress: a record taken or a transaction published."""
        with self._lock:
            self._moved_at = self._clock.monotonic()

    @property
    def moved_at(self) -> float:
        return self._moved_at

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {place.name: self._counts[place.name] for place in self._places}

    def working(self) -> int:
        """Tasks that wait for this worker alone."""
        with self._lock:
            return sum(self._counts[place.name] for place in self._places if not place.waits_on_others)

    def stuck(self, limits_s: Mapping[str, float]) -> list[str]:
        """One sentence for each stage whose longest task exceeds its limit."""
        now = self._clock.monotonic()
        with self._lock:
            longest = {stage: self._at_work[stage].longest() for stage in limits_s}
        return [
            f"{stage} has worked on one image for {now - found[1]:.0f} s: {found[0].job.coordinates}"
            for stage, found in longest.items()
            if found is not None and now - found[1] > limits_s[stage]
        ]

    def _end(self, task: Task) -> None:
        now = self._clock.monotonic()
        task.took(task.stage, now - task.since)
        with self._lock:
            self._leave(task, now)

    def _leave(self, task: Task, now: float) -> None:
        self._counts[task.stage] -= 1
        self._moved_at = now
        if task.stage in self._at_work:
            self._at_work[task.stage].leave(task, now)
