"""The annotate stage: runs the models on batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from workers import metrics
from workers.metrics import ObservedGauge, Reader
from workers.pipeline import tracing
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.self_test import DeviceSelfTest
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import AnnotatedTask, DecodedTask
from workers.ports import Clock

_BATCH_S = 15.0
"""Least time limit of a batch, in seconds."""


class AnnotateStage(QueueStage):
    """Runs the models on batches. A batch has all images that are ready.

    A batch may take 15 s, or five times as long as the slowest batch so far.

    Args:
        self_test: runs the models, and tests them from time to time.
    """

    places = (Place("wait-device"), Place("annotate", works=True))

    def __init__(
        self, self_test: DeviceSelfTest, progress: TaskProgress, clock: Clock, options: WorkerOptions, endings: Endings
    ) -> None:
        super().__init__("device")
        self._self_test = self_test
        self._progress = progress
        self._clock = clock
        self._endings = endings
        self._stall_timeout_s = options.stall_timeout_s
        self._since: float | None = None
        self._slowest_s = 0.0
        self._decoded: StageQueue[DecodedTask] = self._queue(self._annotate, most=lambda: self_test.most_images)

    def then(self, *, finish: Callable[[Sequence[AnnotatedTask]], None]) -> None:
        """Set the next step: `finish` continues with the tasks of a batch."""
        self._finish = finish

    def begin(self, decoded: DecodedTask) -> None:
        """Queue the image for the next batch; one that lacks no model's result goes on at once. Thread-safe."""
        if not self._self_test.has_work(decoded):
            self._finish((AnnotatedTask(decoded, decoded.attempt()),))
            return
        self._progress.move(decoded.task, "wait-device")
        self._decoded.put(decoded)

    def work(self) -> None:
        """Run a batch of the ready images, and a due self-test."""
        super().work()
        if self._self_test.due:
            with self._timed():
                self._self_test.annotate(())

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        return {metrics.SELF_TEST_AGE: self._self_test.age, metrics.SAFE_BATCH: self._self_test.safe_batch}

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"annotate": max(self._stall_timeout_s, self._batch_limit_s)}

    def stalled(self, now: float) -> str | None:
        since = self._since
        if since is None or now - since <= self._batch_limit_s:
            return None
        return f"the device has worked on one batch for {now - since:.0f} s"

    @property
    def _batch_limit_s(self) -> float:
        return max(_BATCH_S, 5 * self._slowest_s)

    def _annotate(self, decoded: Sequence[DecodedTask]) -> None:
        """Run the models on these tasks. A suspect runs alone, ended assignments not at all."""
        full = len(decoded) >= self._self_test.most_images
        live = [each for each in decoded if self._endings.still_wanted(each.task)]
        with self._timed():
            if together := [each for each in live if not each.task.alone]:
                self._run(together, "full" if full else "ready")
            for each in live:
                if each.task.alone:
                    self._run([each], "alone")

    def _run(self, batch: Sequence[DecodedTask], reason: str) -> None:
        self._progress.move_all([decoded.task for decoded in batch], "annotate")
        started = self._clock.monotonic()
        annotated = self._self_test.annotate(batch)
        context = tracing.example(decoded.task.span.get_span_context() for decoded in batch)
        metrics.STAGE_SECONDS.record(self._clock.monotonic() - started, context, stage="annotate")
        metrics.BATCH_IMAGES.record(len(batch))
        metrics.BATCHES.add(left=reason)
        self._finish(annotated)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self._since = self._clock.monotonic()
        yield
        self._slowest_s = max(self._slowest_s, self._clock.monotonic() - started)
        self._since = None
