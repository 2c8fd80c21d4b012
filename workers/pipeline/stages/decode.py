"""The decode stage: reads the header of an image, and then its pixels.

Each image is in the journal until its task ends. After a crash, images in the journal are *suspects*: each runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from workers.errors import Rejected
from workers.pipeline.facts import FACTS
from workers.pipeline.flow.budget import Budget, ExclusiveGate, Reservation
from workers.pipeline.journal import Journal
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.roles import Roles
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import Stage
from workers.pipeline.task import DecodedTask, InspectedTask, LoadedTask, Task
from workers.ports import Intake
from workers.types import DecodedImage, Facts, Partition, Transform


@dataclass(eq=False)
class DecodeStage(Stage):
    """Reads headers and decodes pixels. The intake's threads do the work."""

    places = (Place("wait-inspect"), Place("inspect", works=True), Place("wait-decode"), Place("decode", works=True))

    intake: Intake
    roles: Roles
    journal: Journal
    progress: TaskProgress
    options: WorkerOptions
    endings: Endings
    lookup: Callable[[InspectedTask], None] = field(init=False)
    annotate: Callable[[DecodedTask], None] = field(init=False)
    reject: Callable[[Task, str, Rejected], None] = field(init=False)
    """Ends a task; takes the SHA-256 of its bytes and the error."""

    def __post_init__(self) -> None:
        self.leaves: Callable[[Partition], bool] = lambda _: False
        """Whether an image goes on without pixels for its results from elsewhere."""
        self._gate = ExclusiveGate()
        self.budget = Budget(self.options.decoded_bytes, self.options.background)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        return {"decoded": self.budget}

    def stalled(self, now: float) -> str | None:
        """The reason if a decoder hangs, or takes no image.

        An image may wait for minutes while other partitions have their turns. That is no stall.
        """
        job, seconds = self.intake.at_work()
        if job is not None:
            what = f"a decoder has worked on one image for {seconds:.0f} s: {job.coordinates}"
        else:
            seconds = min(seconds, self.progress.first_s("inspect", "decode"))
            what = f"no decoder has taken an image that waits for {seconds:.0f} s"
        return what if seconds > self.options.stall_timeout_s else None

    def inspect(self, loaded: LoadedTask) -> None:
        """Read the header, unless the fetch stage has read it."""
        if loaded.fetched.facts is not None:
            self._describe(loaded, loaded.fetched.facts)
            return
        self.progress.move(loaded.task, "wait-inspect")
        self._step_in(loaded.task, loaded.fetched.inspect_bytes, lambda _: self._inspect(loaded))

    def _inspect(self, loaded: LoadedTask) -> None:
        self.progress.move(loaded.task, "inspect")
        future = self.intake.inspect(loaded.fetched)
        self.endings.when_done(loaded.task, future, partial(self._inspected, loaded))

    def _inspected(self, loaded: LoadedTask, future: Future[Facts]) -> None:
        try:
            facts = future.result()
        except Rejected as error:
            self.reject(loaded.task, loaded.fetched.sha256, error)
            return
        loaded.task.release("journal", "decoded", "gate")
        self._describe(loaded, facts)

    def _describe(self, loaded: LoadedTask, facts: Facts) -> None:
        if not loaded.fetched.fits(facts):
            self.endings.read_original(loaded.task, "shape")
            return
        self.lookup(InspectedTask(loaded.task, loaded.annotation, facts, loaded.fetched.date, loaded.fetched))

    def decode(self, inspected: InspectedTask) -> None:
        """Decode the image for the results that it lacks."""
        self.progress.move(inspected.task, "wait-decode")
        awaited = self.roles.awaited(inspected.annotation)
        leaves = awaited and self.leaves(inspected.task.job.assignment.partition)
        transforms = self.roles.transforms(inspected.annotation, waiting=not leaves)
        if not transforms:
            inspected.task.release("bytes", "encoded")
            self.annotate(DecodedTask(inspected.task, inspected.annotation, inspected.facts, inspected.date, {}))
            return
        try:
            size = self.intake.decode_bytes(inspected.facts, transforms) + inspected.fetched.size
        except Rejected as error:
            self.reject(inspected.task, inspected.facts.sha256, error)
            return
        self._step_in(inspected.task, size, partial(self._decode, inspected, transforms))

    def _decode(self, inspected: InspectedTask, transforms: Sequence[Transform], reservation: Reservation) -> None:
        self.progress.move(inspected.task, "decode")
        future = self.intake.decode(inspected.fetched, inspected.facts, transforms)
        self.endings.when_done(inspected.task, future, partial(self._decoded, inspected, reservation))

    def _step_in(self, task: Task, size: int, go: Callable[[Reservation], None]) -> None:
        """Pass the gate, reserve `size` bytes, enter the journal, then call `go`."""
        task.alone = task.alone or task.job.coordinates in self.journal.suspects
        self._gate.enter(lambda: self._reserve_room(task, size, go), alone=task.alone, background=task.background)

    def _reserve_room(self, task: Task, size: int, go: Callable[[Reservation], None]) -> None:
        task.hold("gate", self._gate.leave)
        if self.endings.still_wanted(task):
            self.budget.reserve(
                task.job.assignment.partition, size, lambda reservation: self._note(task, reservation, go)
            )

    def _note(self, task: Task, reservation: Reservation, go: Callable[[Reservation], None]) -> None:
        task.hold("decoded", reservation.release)
        if self.endings.still_wanted(task):
            self.journal.enter(task.job.coordinates)
            task.hold("journal", lambda: self._leave_journal(task))
            go(reservation)

    def _leave_journal(self, task: Task) -> None:
        """Remove the image from the journal; after decoder and device it is no suspect."""
        self.journal.leave(task.job.coordinates, came_through=task.came_through or task.ending == "done")

    def _decoded(self, inspected: InspectedTask, reservation: Reservation, future: Future[DecodedImage]) -> None:
        task = inspected.task
        task.forget("bytes")  # the decoder has freed the bytes
        task.release("encoded")
        try:
            image = future.result()
        except Rejected as error:
            self.reject(task, inspected.facts.sha256, error)
            return
        reservation.shrink(image.size)
        if image.facts is not None:
            inspected.annotation.results.setdefault(FACTS, image.facts)
        images = dict(image.pixels)
        task.hold("pixels", images.clear)  # held last, so freed first: the pixels before their reservation
        self.annotate(DecodedTask(task, inspected.annotation, inspected.facts, inspected.date, images, reservation))
