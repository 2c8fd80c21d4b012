"""The annotate stage: the device takes all ready images as a batch."""

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
"""Seconds that any batch may take."""


class AnnotateStage(QueueStage):
    """Runs the models on batches.

    A batch, and an image in it, may take max(15 s, 5 × the slowest so far).

    Args:
        self_test: annotates, and checks the answers.
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

    def then(self, *, annotated: Callable[[Sequence[AnnotatedTask]], None]) -> None:
        """Say what comes next: `annotated` takes the tasks of a batch."""
        self._annotated = annotated

    def begin(self, decoded: DecodedTask) -> None:
        """Queue the image for the next batch. Any thread."""
        self._progress.move(decoded.task, "wait-device")
        self._decoded.put(decoded)

    def work(self) -> None:
        """Annotate the ready images, then run a self-test that is still due."""
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
        """Run one batch without tasks of ended assignments; a suspect runs alone."""
        full = len(decoded) >= self._self_test.most_images
        live = [each for each in decoded if self._endings.still_wanted(each.task)]
        with self._timed():
            if together := [each for each in live if not each.task.alone]:
                self._run(together, "full" if full else "ready")
            for each in live:
                if each.task.alone:
                    self._run([each], "alone")

    def _run(self, batch: Sequence[DecodedTask], left: str) -> None:
        self._progress.move_all([decoded.task for decoded in batch], "annotate")
        started = self._clock.monotonic()
        annotated = self._self_test.annotate(batch)
        context = tracing.example(decoded.task.span.get_span_context() for decoded in batch)
        metrics.STAGE_SECONDS.record(self._clock.monotonic() - started, context, stage="annotate")
        metrics.BATCH_IMAGES.record(len(batch))
        metrics.BATCHES.add(left=left)
        self._annotated(annotated)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self._since = self._clock.monotonic()
        yield
        self._slowest_s = max(self._slowest_s, self._clock.monotonic() - started)
        self._since = None
