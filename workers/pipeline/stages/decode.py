"""The decode stage: looks into bytes that anyone may have made, first into the header, then for the pixels.

It owns the memory for pixels, the gate that an image under suspicion passes alone, and the journal of what is in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

from workers.errors import Rejected
from workers.pipeline.flow.budget import Budget, Reservation
from workers.pipeline.flow.gate import ExclusiveGate
from workers.pipeline.journal import Journal
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.stage import Stage
from workers.pipeline.task import Task
from workers.ports import Intake
from workers.types import DecodedImage, Facts


class DecodeStage(Stage):
    """Reads each image's header for its facts, then decodes its pixels.

    Args:
        inspected, decoded: take a task that has its facts, or its pixels.
        refused: takes one whose bytes the intake rejects, with their hash.
        fetch_again: takes one whose bytes were let go while it waited for an equal image.
    """

    places = (
        Place("wait-inspect"),
        Place("inspect", works=True),
        Place("wait-decode"),
        Place("decode", works=True),
    )

    def __init__(
        self,
        intake: Intake,
        journal: Journal,
        progress: TaskProgress,
        options: WorkerOptions,
        *,
        endings: Endings,
        inspected: Callable[[Task], None],
        decoded: Callable[[Task], None],
        refused: Callable[[Task, str, Rejected], None],
        fetch_again: Callable[[Task], None],
    ) -> None:
        self._intake = intake
        self._journal = journal
        self._progress = progress
        self._endings = endings
        self._when_inspected = inspected
        self._when_decoded = decoded
        self._refuse = refused
        self._fetch_again = fetch_again
        self._gate = ExclusiveGate()
        self._stall_timeout_s = options.stall_timeout_s
        self.budget = Budget(options.decoded_bytes)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        return {"decoded": self.budget}

    @property
    def limits_s(self) -> Mapping[str, float]:
        return {"inspect": self._stall_timeout_s, "decode": self._stall_timeout_s}

    def inspect(self, task: Task) -> None:
        """Read the header, unless a glance already did, then call `inspected`."""
        if task.fetched is None:  # promoted, after its bytes were let go
            self._fetch_again(task)
            return
        if task.fetched.facts is not None:
            task.facts = task.fetched.facts
            self._when_inspected(task)
            return
        self._progress.move(task, "wait-inspect")
        self._step_in(task, task.fetched.inspect_bytes, self._inspect)

    def _inspect(self, task: Task) -> None:
        assert task.fetched is not None
        self._progress.move(task, "inspect")
        self._endings.when_done(task, self._intake.inspect(task.fetched), self._inspected)

    def _inspected(self, task: Task, future: Future[Facts]) -> None:
        try:
            task.facts = future.result()
        except Rejected as error:
            assert task.fetched is not None
            self._refuse(task, task.fetched.sha256, error)
            return
        task.release("journal", "decoded", "gate")
        self._when_inspected(task)

    def decode(self, task: Task) -> None:
        """Make pixels of its bytes, then go on with `decoded`."""
        assert task.fetched is not None
        assert task.facts is not None
        self._progress.move(task, "wait-decode")
        self._step_in(task, task.facts.decode_bytes + task.fetched.copied_bytes, self._decode)

    def _decode(self, task: Task) -> None:
        assert task.fetched is not None
        assert task.facts is not None
        self._progress.move(task, "decode")
        self._endings.when_done(task, self._intake.decode(task.fetched, task.facts), self._decoded)

    def _step_in(self, task: Task, size: int, go: Callable[[Task], None]) -> None:
        """Before a decoder gets the image: past the gate, with so many bytes reserved, in the journal; then `go`."""
        task.alone = task.alone or task.job.coordinates in self._journal.suspects
        self._gate.enter(lambda: self._reserve_room(task, size, go), alone=task.alone)

    def _reserve_room(self, task: Task, size: int, go: Callable[[Task], None]) -> None:
        task.hold("gate", self._gate.leave)
        if self._endings.still_wanted(task):
            self.budget.reserve(
                task.job.assignment.partition, size, lambda reservation: self._note(task, reservation, go)
            )

    def _note(self, task: Task, reservation: Reservation, go: Callable[[Task], None]) -> None:
        task.decoded = reservation
        task.hold("decoded", reservation.release)
        if self._endings.still_wanted(task):
            self._journal.enter(task.job.coordinates)
            task.hold("journal", lambda: self._leave_journal(task))
            go(task)

    def _leave_journal(self, task: Task) -> None:
        """It came through if it is done: no decoder and no device is going to get this image again."""
        self._journal.leave(task.job.coordinates, came_through=task.ending == "done")

    def _decoded(self, task: Task, future: Future[DecodedImage]) -> None:
        task.fetched = None  # the decoder took it
        task.release("bytes", "encoded")
        try:
            task.image = future.result()
        except Rejected as error:
            assert task.facts is not None
            self._refuse(task, task.facts.sha256, error)
            return
        if task.decoded is not None:
            task.decoded.shrink(task.image.size)
        self._when_decoded(task)
