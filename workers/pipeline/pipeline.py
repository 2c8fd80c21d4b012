"""The pipeline: the stages that an image goes through, in order.

    take → parse → lookup → fetch → lookup → inspect → lookup → decode → annotate → finish → (ledger) → settle

A removal event goes from parse to fetch, which sends a HEAD, and then to finish.

`Pipeline` tells each stage what comes next (`then`). One thread at a time owns a task, and hands it on through
a queue, a budget or a future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.pipeline.annotator import Annotator
from workers.pipeline.commit.after_commit import AfterCommit, Drift, Tally
from workers.pipeline.commit.ledger import Entry, Ledger
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
        crash: called with the exception of a bug of ours; ends the process.
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
        endings = Endings(renderer, crash)
        parse = self.parse = ParseStage(self.ledger, journal, renderer, results, self.progress, options)
        lookup = self.lookup = LookupStage(results, self.progress, endings)
        fetch = self.fetch = FetchStage(intake, self.progress, clock, options, endings)
        decode = self.decode = DecodeStage(intake, journal, self.progress, options, endings)
        models = DeviceSelfTest(annotator, self.ledger, results, clock, options.self_test_s)
        annotate = self.annotate = AnnotateStage(models, self.progress, clock, options, endings)
        finish = self.finish = FinishStage(renderer, self.ledger, results, self.progress, clock, options, endings)
        self.stages: tuple[Stage, ...] = (parse, lookup, fetch, decode, annotate, finish)
        # Connect the stages.
        parse.then(wanted=lookup.begin, removed=fetch.look, done=finish.complete)
        lookup.then(unknown=fetch.begin, unrejected=decode.inspect, uncomputed=decode.decode, complete=finish.begin)
        fetch.then(loaded=lookup.fetched)
        decode.then(inspected=lookup.inspected, decoded=annotate.begin, refused=lookup.refuse)
        annotate.then(annotated=finish.annotated)
        finish.then(computed=lookup.keep, again=annotate.begin)
        endings.then(done=finish.complete)
        self._after_commit = AfterCommit(
            journal,
            self.tally,
            Drift(annotator.roles),
            clock,
            options.group,
            tell_cache=lookup.committed,
            read_on=parse.wake,
        )
        intake.on_doubt(lookup.doubt)

    # ---- poll thread ------------------------------------------------------------------------------------------

    def take(self, record: Record, *repeats: Record) -> bool:
        """Admit a polled record and its repeats; False: their assignment has ended."""
        entry = self.ledger.admit(record, self._clock.monotonic(), repeats)
        if entry is None:
            return False
        self.progress.moved()
        self.parse.entries.put(entry)
        return True

    def open(self, assignment: Assignment, offset: int) -> int:
        """Open an assigned partition at its committed offset, and return the offset."""
        self._journal.begins(assignment.partition, offset)
        self.ledger.open(assignment, offset)
        return offset

    # ---- publish thread ---------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Entry]) -> None:
        """Follow up on these committed records."""
        self.progress.moved()
        self._after_commit.settle(entries)

    def render_again(self) -> None:
        """Render again the waiting outcomes that no longer fit their topics' limits."""
        self.ledger.refill(self._renderer.messages_again)
