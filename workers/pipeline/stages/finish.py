"""The finish stage: turns models' answers into outcomes, and outcomes into messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.cache_entries import NOTHING
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.known_results import KnownResults
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.rendering import Renderer
from workers.pipeline.stages.endings import Done, Endings
from workers.pipeline.stages.stage import MOST_BACKGROUND, MOST_ITEMS, QueueStage, StageQueue
from workers.pipeline.task import AnnotatedTask, CompleteTask, DecodedTask, Task
from workers.ports import Clock
from workers.types import Message

EACH_S = 20.0
"""Most images per second whose times are recorded. A record takes a millisecond."""


class StageTimes:
    """Records the stage times of ended tasks in the metrics. Not thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._allowed = EACH_S

    def record(self, tasks: Sequence[Task]) -> None:
        """Record these tasks, or an even sample if there are many."""
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
                if stage != "annotate":  # the device's time is measured by batch
                    metrics.STAGE_SECONDS.record(milliseconds / 1000, context, stage=stage)


@dataclass(eq=False)
class FinishStage(QueueStage):
    """Builds outcomes and enters them into the ledger."""

    places = (Place("finish", works=True, in_turn=True),)

    renderer: Renderer
    ledger: Ledger
    results: KnownResults
    progress: TaskProgress
    clock: Clock
    options: WorkerOptions
    endings: Endings
    keep: Callable[[CompleteTask], None] = field(init=False)
    """Caches the results of a task, before the task ends."""
    annotate_again: Callable[[DecodedTask], None] = field(init=False)
    """Runs the models again on an image with NaN scores."""

    def __post_init__(self) -> None:
        super().__init__("finish", bool(self.options.background))
        self._times = StageTimes(self.clock)
        self.wait: Callable[[DecodedTask, CompleteTask], bool] = lambda *_: False
        """Takes an image that lacks results from elsewhere; False: it need not wait."""
        self._annotated: StageQueue[AnnotatedTask] = self._lane_queue(self._postprocess, _waits)
        self._complete: StageQueue[CompleteTask] = self._lane_queue(self._finish, _waits)
        self.done: StageQueue[Done] = self._lane_queue(
            self.enter,
            lambda done: done.entry.record.assignment.background,
            most=lambda: self._enters,
            most_background=lambda: min(self._enters, MOST_BACKGROUND),
        )
        self._enters = MOST_ITEMS

    def annotated(self, tasks: Sequence[AnnotatedTask]) -> None:
        """Build outcomes from the models' answers. Thread-safe."""
        self.progress.move_all([annotated.task for annotated in tasks], "finish")
        self._annotated.put(*tasks)

    def begin(self, tasks: Sequence[CompleteTask]) -> None:
        """Build outcomes from results. Thread-safe."""
        self.progress.move_all([complete.task for complete in tasks], "finish")
        self._complete.put(*tasks)

    def complete(self, done: Done) -> None:
        """Queue the outcomes of an event for the ledger. Thread-safe."""
        self.done.put(done)

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"finish": self.options.stall_timeout_s}

    def work(self, most: int = MOST_ITEMS) -> None:
        """Build outcomes, and enter those of at most `most` events."""
        self._enters = most
        super().work()

    def _postprocess(self, tasks: Sequence[AnnotatedTask]) -> None:
        complete: list[CompleteTask] = []
        for annotated in tasks:
            try:
                found = self.renderer.postprocess(annotated)
            except ValueError:
                # NaN scores: the image runs again alone, and a self-test image runs if it fails again.
                annotated.task.alone = True
                self.annotate_again(annotated.decoded)
                continue
            if not self.wait(annotated.decoded, found):
                complete.append(found)
        self._finish(complete)

    def _finish(self, tasks: Sequence[CompleteTask]) -> None:
        done: list[Done] = []
        for complete in tasks:
            self.keep(complete)
            outcomes = self.renderer.outcomes(complete)
            done.append(self.endings.ended(complete.task, outcomes, self.results.arrival(complete)))
        self._times.record([complete.task for complete in tasks])
        self.done.put(*done)

    def enter(self, items: Sequence[Done]) -> None:
        """Enter outcomes into the ledger, with the messages of complete records."""
        filled: list[tuple[Entry, Sequence[Message]]] = []
        for done in items:
            entry = done.entry
            outcomes = self.renderer.rendered(entry, done.index, done.outcomes)
            if done.write is not NOTHING and not entry.full:
                entry.after_commit.append(done.write)
            if self.ledger.complete(entry, done.index, outcomes):
                filled.append((entry, self.renderer.messages(entry)))
        for entry in self.ledger.fill_all(filled):
            metrics.DROPPED_JOBS.add(len(entry.outcomes))


def _waits(each: AnnotatedTask | CompleteTask) -> bool:
    return each.task.background
