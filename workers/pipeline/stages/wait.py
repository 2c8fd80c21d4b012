"""The wait stage: asks a captioner elsewhere, and keeps images until it answers.

An image comes here once its other results are known. It waits as a JPEG: its pixels, its turn on the device and its
entry in the journal are given back first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from schemas.dead_letter import Failure, Reason
from workers import metrics
from workers.errors import Unanswered
from workers.pipeline.annotation import Annotation
from workers.pipeline.captioning import RemoteCaptioning
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.roles import Roles
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import CompleteTask, DecodedTask, Task
from workers.ports import Clock
from workers.types import Partition, RemoteAnswer

_LEFT_S = 1.0
_FOR_ALL: Final[tuple[Reason, ...]] = ("caption-unavailable", "caption-budget")
"""Reasons that an image has in common with the next ones."""


@dataclass(eq=False)
class WaitStage(QueueStage):
    """Asks about images, each with its own deadline. Answers come on the captioner's threads."""

    places = (Place("wait-caption", waits_on_others=True),)

    roles: Roles
    captioning: RemoteCaptioning
    progress: TaskProgress
    clock: Clock
    endings: Endings
    lanes: bool = False
    finish: Callable[[Sequence[CompleteTask]], None] = field(init=False)
    keep_late: Callable[[CompleteTask], None] = field(init=False)
    """Caches the results of an answer that came too late for its image."""

    def __post_init__(self) -> None:
        super().__init__("captions", self.lanes)
        self._captioner = self.captioning.captioner
        self._lock = threading.Lock()
        self._asked: dict[Task, Future[RemoteAnswer]] = {}
        self._left: dict[Partition, tuple[float, Unanswered]] = {}
        """When and why the last image was left at once, by partition."""
        self._again = 0.0
        """From when on one more image may be asked about, in spite of that."""
        self._questions: StageQueue[tuple[DecodedTask, CompleteTask]] = self._lane_queue(self._ask, _waits)

    def begin(self, decoded: DecodedTask, known: CompleteTask) -> bool:
        """Let an image wait; False: it needs no answer, or becomes a dead letter without one. Thread-safe."""
        lost = any(failure.want in self.roles.essential for failure in known.failures)
        if lost or not self.roles.awaited(known.annotation):
            return False
        self.progress.move(known.task, "wait-caption")
        self._questions.put((decoded, known))
        return True

    def leaves(self, partition: Partition) -> bool:
        """Whether to decode an image without pixels for its caption. Thread-safe.

        While images are left at once, one a second is asked about. The others cost neither larger pixels nor a JPEG.
        """
        now = self.clock.monotonic()
        with self._lock:
            if partition not in self._left or now < self._again:
                return partition in self._left
            self._again = now + _LEFT_S
            return False

    def drop_ended(self) -> None:
        with self._lock:
            ended = [future for task, future in self._asked.items() if not task.current]
        for future in ended:
            future.cancel()

    def unready(self) -> list[str]:
        reason = self._captioner.unready()
        return [] if reason is None else [reason]

    def _ask(self, questions: Sequence[tuple[DecodedTask, CompleteTask]]) -> None:
        for decoded, known in questions:
            task = known.task
            if not self.endings.still_wanted(task):
                continue
            partition, now = task.job.assignment.partition, self.clock.monotonic()
            pixels, left = decoded.images.get(self._captioner.transform), self._left.get(partition)
            if pixels is None or (left is not None and now < left[0] + _LEFT_S):
                why = left[1] if left else Unanswered("caption-unavailable", "the service was away at the decoding")
                metrics.CAPTIONS_MISSING.add(reason=why.reason)
                self._go_on(known, why)
                continue
            jpeg = self._captioner.encode(pixels, decoded.about)
            decoded.give_pixels_back(kept_bytes=len(jpeg))
            names = self.captioning.names(known.annotation)
            late = partial(self._came_late, known)
            future = self._captioner.ask(jpeg, names, partition, late, background=task.background)
            refused = future.exception() if future.done() and not future.cancelled() else None
            with self._lock:
                self._asked[task] = future
                if isinstance(refused, Unanswered) and refused.reason in _FOR_ALL:
                    self._left[partition], self._again = (now, refused), now + _LEFT_S
                else:
                    self._left.clear()
            self.endings.when_done(task, future, partial(self._answered, known))
            if not task.current:  # it has ended since the look above, unseen by `drop_ended`
                future.cancel()

    def _answered(self, known: CompleteTask, future: Future[RemoteAnswer]) -> None:
        with self._lock:
            del self._asked[known.task]
        why = Unanswered("caption-refused", "the answer has no such result")
        try:
            self._take(future.result(), known.annotation)
        except Unanswered as error:
            why = error
        self._go_on(known, why)

    def _go_on(self, known: CompleteTask, why: Unanswered) -> None:
        """Give the image back; `why` it lacks what it still lacks."""
        image = known.annotation
        unanswered = [
            Failure(index=image.event.index, stage="caption", reason=why.reason, detail=why.detail, want=role.name)
            for role in self.roles.awaited(image)
        ]
        self.finish((replace(known, unanswered=tuple(unanswered)),))

    def _came_late(self, known: CompleteTask, answer: RemoteAnswer) -> None:
        image = known.annotation.copy()
        image.hits.update(image.results)  # which are cached already
        self._take(answer, image)
        self.keep_late(replace(known, annotation=image))

    def _take(self, answer: RemoteAnswer, image: Annotation) -> None:
        """Fill in an answer's results; the unwanted ones serve the cache."""
        for role in self.roles.waiting:
            if role.name not in image.results and (found := role.taken(answer)) is not None:
                image.results[role.name] = found


def _waits(question: tuple[DecodedTask, CompleteTask]) -> bool:
    return question[1].task.background
