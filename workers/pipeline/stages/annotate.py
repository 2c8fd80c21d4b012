"""The annotate stage: runs the models on batches of images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from workers import metrics
from workers.metrics import ObservedGauge, Reader
from workers.pipeline import tracing
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.roles import Roles
from workers.pipeline.self_test import DeviceSelfTest
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import AnnotatedTask, DecodedTask
from workers.ports import Clock
from workers.types import Assignment

_BATCH_S = 15.0
"""Least time limit of a batch, in seconds."""
_ADDED_S = 0.25
"""Batches for added roles have so many images that they take about as long; others wait for it."""
_BACKGROUND_S, _SLOW_OF = 0.05, 20
"""Background batches take so long at most, by the slowest of so many; live images wait for them."""
_BATCHES_AHEAD = 8
"""No background record is admitted while background images fill so many batches, and there are as many as GETs: to
fetch and decode more takes processors from live images, and each is a suspect after a crash."""


class _Cut:
    """The size of batches that are to take this long: one image at first, then by the slowest of the last batches.

    Args:
        batches: how many of them.
    """

    def __init__(self, seconds: float, batches: int = 1) -> None:
        self.images = 1
        self._seconds = seconds
        self._of_an_image = deque[float](maxlen=batches)

    def ran(self, images: int, seconds: float) -> None:
        self._of_an_image.append(max(1e-3, seconds) / images)
        self.images = max(1, min(2 * images, int(self._seconds / max(self._of_an_image))))


@dataclass(eq=False)
class AnnotateStage(QueueStage):
    """Runs the models on batches. A batch has all images that are ready.

    A batch may take 15 s, or five times as long as the slowest batch so far.

    Images that lack the result of an added role wait in a queue of their own, and the two queues take turns. So a slow
    added role delays other images by one of its batches at most. Background images wait in two more queues. Their
    batches are small, and live images have the device after each.

    Args:
        self_tests: run the models, and test them from time to time; the first for batches without added roles, the last
            for batches with them.
    """

    places = (Place("wait-device"), Place("annotate", works=True))

    roles: Roles
    self_tests: Sequence[DeviceSelfTest]
    progress: TaskProgress
    clock: Clock
    options: WorkerOptions
    endings: Endings
    finish: Callable[[Sequence[AnnotatedTask]], None] = field(init=False)

    def __post_init__(self) -> None:
        super().__init__("device", bool(self.options.background))
        self._background_cuts: list[_Cut] = []
        self._since: float | None = None
        self._slowest_s = 0.0
        self._with_own = self._line(self.self_tests[0], None)
        self._with_added = self._line(self.self_tests[-1], _Cut(_ADDED_S))

    def begin(self, decoded: DecodedTask) -> None:
        """Queue the image for the next batch; one that lacks no model's result goes on at once. Thread-safe."""
        missing = self.roles.missing(decoded.annotation)
        if not missing:
            self.finish((AnnotatedTask(decoded, decoded.attempt()),))
            return
        self.progress.move(decoded.task, "wait-device")
        queue = self._with_added if any(role in self.roles.added for role in missing) else self._with_own
        queue.put(decoded)

    def holds_back(self, assignment: Assignment) -> bool:
        if not assignment.background:
            return False
        batch = max(cut.images for cut in self._background_cuts)
        return self.progress.background() >= max(_BATCHES_AHEAD * batch, self.options.fetch_threads)

    def work(self) -> None:
        """Run a batch of the ready images, and a due self-test."""
        super().work()
        for self_test in self.self_tests:
            if self_test.due:
                with self._timed():
                    self_test.annotate(())

    @property
    def gauges(self) -> Mapping[ObservedGauge, Reader]:
        of_all = self.self_tests[-1]
        return {metrics.SELF_TEST_AGE: of_all.age, metrics.SAFE_BATCH: of_all.safe_batch}

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"annotate": max(self.options.stall_timeout_s, self._batch_limit_s)}

    def stalled(self, now: float) -> str | None:
        since = self._since
        if since is None or now - since <= self._batch_limit_s:
            return None
        return f"the device has worked on one batch for {now - since:.0f} s"

    @property
    def _batch_limit_s(self) -> float:
        return max(_BATCH_S, 5 * self._slowest_s)

    def _line(self, self_test: DeviceSelfTest, cut: _Cut | None) -> StageQueue[DecodedTask]:
        """A queue for each lane; its images have batches of their own."""
        behind = _Cut(_BACKGROUND_S, batches=_SLOW_OF)
        self._background_cuts.append(behind)
        return self._lane_queue(
            partial(self._annotate, self_test, cut),
            lambda decoded: decoded.task.background,
            background=partial(self._annotate, self_test, behind),
            most=lambda: min(self_test.most_images, cut.images) if cut else self_test.most_images,
            # A due self-test takes a place, or the next turn if there is one place.
            most_background=lambda: min(self_test.most_images, behind.images - self_test.due),
        )

    def _annotate(self, self_test: DeviceSelfTest, cut: _Cut | None, decoded: Sequence[DecodedTask]) -> None:
        """Run a batch; its time sets the size of the next one."""
        started = self.clock.monotonic()
        most = min(self_test.most_images, cut.images) if cut else self_test.most_images
        ran = self._annotate_current(decoded, self_test, full=len(decoded) >= most)
        if cut is not None and ran:
            cut.ran(ran, self.clock.monotonic() - started)

    def _annotate_current(self, decoded: Sequence[DecodedTask], self_test: DeviceSelfTest, *, full: bool) -> int:
        """Run the models on these tasks; returns on how many.

        A suspect runs alone, ended assignments not at all.
        """
        live = [each for each in decoded if self.endings.still_wanted(each.task)]
        with self._timed():
            if together := [each for each in live if not each.task.alone]:
                self._run(self_test, together, "full" if full else "ready")
            for each in live:
                if each.task.alone:
                    self._run(self_test, [each], "alone")
        return len(live)

    def _run(self, self_test: DeviceSelfTest, batch: Sequence[DecodedTask], reason: str) -> None:
        self.progress.move_all([decoded.task for decoded in batch], "annotate")
        started = self.clock.monotonic()
        annotated = self_test.annotate(batch)
        context = tracing.example(decoded.task.span.get_span_context() for decoded in batch)
        metrics.STAGE_SECONDS.record(self.clock.monotonic() - started, context, stage="annotate")
        metrics.BATCH_IMAGES.record(len(batch))
        metrics.BATCHES.add(left=reason)
        self.finish(annotated)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self._since = self.clock.monotonic()
        yield
        self._slowest_s = max(self._slowest_s, self.clock.monotonic() - started)
        self._since = None
