"""How long images were in each stage: measured of some, because a measurement of each would be a stage's work."""

from __future__ import annotations

from collections.abc import Sequence

from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.task import Task
from workers.ports import Clock

EACH_S = 20.0
"""Of so many images a second at most the times are recorded, which takes a millisecond."""


class StageTimes:
    """Records the times of tasks that have ended. On one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._allowed = EACH_S

    def record(self, tasks: Sequence[Task]) -> None:
        """Record the times of these tasks: all if few, else an even sample."""
        now = self._clock.monotonic()
        self._allowed = min(EACH_S, self._allowed + EACH_S * (now - self._at))
        self._at = now
        if self._allowed < 1:
            return
        chosen = tasks[:: -(-len(tasks) // int(self._allowed)) or 1]
        self._allowed -= len(chosen)
        for task in chosen:
            context = tracing.example([task.span.get_span_context()])
            for stage, milliseconds in task.timings_ms.items():
                if stage != "annotate":  # which is measured by batches
                    metrics.STAGE_SECONDS.record(milliseconds / 1000, context, stage=stage)
