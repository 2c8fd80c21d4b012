"""The pipeline: the stages that an image goes through, in order.

    take → parse → lookup → fetch → lookup → inspect → lookup → decode → annotate → finish → (ledger) → settle

An event that says that an object is gone goes from parse to fetch, which only looks, and to finish.

Each stage is told here what comes after it. A task is in the hands of one thread at a time, handed on through a queue,
a budget or a future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.pipeline.activity import Tally
from workers.pipeline.annotator import Annotator
from workers.pipeline.commit.after_commit import AfterCommit
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.drift import Drift
from workers.pipeline.journal import Journal
from workers.pipeline.known_results import KnownResults
from workers.pipeline.options import WorkerOptions
from workers.pipeline.progress import TaskProgress
from workers.pipeline.rendering import Renderer
from workers.pipeline.self_test import DeviceSelfTest
from workers.pipeline.stages.annotate import AnnotateStage
from workers.pipeline.stages.decode import DecodeStage
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.fetch import FetchStage
from workers.pipeline.stages.finish import FinishStage
from workers.pipeline.stages.lookup import LookupStage
from workers.pipeline.stages.parse import ParseStage
from workers.pipeline.stages.stage import Stage
from workers.ports import Clock, Intake
from workers.types import Assignment, Record

STAGES: tuple[type[Stage], ...] = (ParseStage, LookupStage, FetchStage, DecodeStage, AnnotateStage, FinishStage)


class Pipeline:
    """All stages, in order, from the admitted records to the ledger.

    Args:
        crash: called with an exception that is our bug; it ends the process.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        results: KnownResults,
        annotator: Annotator,
        renderer: Renderer,
        journal: Journal,
        clock: Clock,
        options: WorkerOptions,
        crash: Callable[[BaseException], None],
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._renderer = renderer
        self.ledger = Ledger()
        self.tally = Tally()
        self.progress = TaskProgress(clock, [place for stage in STAGES for place in stage.places])
        self._endings = Endings(renderer, complete=lambda done: self.finish.complete(done), crash=crash)
        self._read_and_fetch(intake, results, options)
        self._decode_and_annotate(
            intake, DeviceSelfTest(annotator, self.ledger, results, clock, options.self_test_s), options
        )
        self.finish = FinishStage(
            renderer,
            self.ledger,
            results,
            self.progress,
            clock,
            options,
            endings=self._endings,
            computed=self.lookup.keep,
            again=self.annotate.begin,
        )
        self.stages: tuple[Stage, ...] = (
            *(self.parse, self.lookup, self.fetch),
            *(self.decode, self.annotate, self.finish),
        )
        self._after_commit = AfterCommit(
            journal,
            self.tally,
            Drift(annotator.roles),
            clock,
            options.group,
            tell_cache=self.lookup.committed,
            read_on=self.parse.wake,
        )
        intake.on_doubt(self.lookup.doubt)

    # ---- the stages; a lambda where one hands on to another that is made later ---------------------------------

    def _read_and_fetch(self, intake: Intake, results: KnownResults, options: WorkerOptions) -> None:
        self.parse = ParseStage(
            self.ledger,
            self._journal,
            self._renderer,
            results,
            self.progress,
            options,
            wanted=lambda tasks: self.lookup.begin(tasks),
            removed=lambda task: self.fetch.look(task),
            complete=lambda done: self.finish.complete(done),
        )
        self.lookup = LookupStage(
            results,
            self.progress,
            endings=self._endings,
            fetch=lambda task: self.fetch.begin(task),
            inspect=lambda task: self.decode.inspect(task),
            decode=lambda task: self.decode.decode(task),
            complete=lambda tasks: self.finish.begin(tasks),
        )
        self.fetch = FetchStage(
            intake, self.progress, self._clock, options, endings=self._endings, fetched=self.lookup.fetched
        )

    def _decode_and_annotate(self, intake: Intake, models: DeviceSelfTest, options: WorkerOptions) -> None:
        self.decode = DecodeStage(
            intake,
            self._journal,
            self.progress,
            options,
            endings=self._endings,
            inspected=self.lookup.inspected,
            decoded=lambda task: self.annotate.begin(task),
            refused=self.lookup.refuse,
        )
        self.annotate = AnnotateStage(
            models,
            self.progress,
            self._clock,
            options,
            endings=self._endings,
            annotated=lambda tasks: self.finish.annotated(tasks),
        )

    # ---- poll thread ------------------------------------------------------------------------------------------

    def take(self, record: Record, *repeats: Record) -> bool:
        """Admit a polled record, and those behind it that repeat it. False: their assignment has ended."""
        entry = self.ledger.admit(record, self._clock.monotonic(), repeats)
        if entry is None:
            return False
        self.progress.moved()
        self.parse.entries.put(entry)
        return True

    def open(self, assignment: Assignment, offset: int) -> None:
        """A partition is ours, and read from its committed offset on."""
        self._journal.begins(assignment.partition, offset)
        self.ledger.open(assignment, offset)

    # ---- publish thread ---------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Entry]) -> None:
        """These records are committed."""
        self.progress.moved()
        self._after_commit.settle(entries)

    def render_again(self) -> None:
        """The topics' limits may be others than when the outcomes were rendered."""
        self.ledger.refill(self._renderer.messages_again)
