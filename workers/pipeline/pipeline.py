"""Connects the stages, in the order of an image's way.

    poll → parse → lookup → fetch → lookup → read header → lookup → decode → annotate → finish → ledger → publish

A removal event goes from parse to fetch, which sends a HEAD request, and then to finish. Images that lack a caption
from elsewhere go from finish to wait, and back.
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
from workers.pipeline.stages.wait import WaitStage
from workers.ports import Clock, Intake
from workers.types import Assignment, Record

STAGES = (ParseStage, LookupStage, FetchStage, DecodeStage, AnnotateStage, WaitStage, FinishStage)


class Pipeline:
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
        self.lane = options.lane
        self._journal = journal
        self._renderer = renderer
        self.ledger = Ledger()
        self.tally = Tally()
        lanes = bool(options.background)
        self.progress = TaskProgress(clock, [place for stage in STAGES for place in stage.places], lanes)
        endings = Endings(renderer, crash)
        parse = self.parse = ParseStage(self.ledger, journal, renderer, results, self.progress, options)
        lookup = self.lookup = LookupStage(results, self.progress, endings, lanes)
        fetch = self.fetch = FetchStage(intake, self.progress, clock, options, endings)
        roles = annotator.roles
        decode = self.decode = DecodeStage(intake, roles, journal, self.progress, options, endings)
        tests = [
            DeviceSelfTest(annotator, tested, self.ledger, results, clock, options.self_test_s)
            for tested in ((roles.own, roles.models) if roles.added else (roles.models,))
        ]
        annotate = self.annotate = AnnotateStage(roles, tests, self.progress, clock, options, endings)
        finish = self.finish = FinishStage(renderer, self.ledger, results, self.progress, clock, options, endings)
        self.stages: tuple[Stage, ...] = (parse, lookup, fetch, decode, annotate, finish)
        parse.lookup, parse.check_removal, parse.done = lookup.begin, fetch.look, finish.complete
        lookup.fetch, lookup.inspect, lookup.decode, lookup.finish = (
            fetch.begin,
            decode.inspect,
            decode.decode,
            finish.begin,
        )
        fetch.lookup = lookup.fetched
        decode.lookup, decode.annotate, decode.reject = lookup.inspected, annotate.begin, lookup.refuse
        annotate.finish = finish.annotated
        finish.keep, finish.annotate_again = lookup.keep, annotate.begin
        if (captioning := roles.captioning) is not None:
            wait = WaitStage(roles, captioning, self.progress, clock, endings, lanes)
            wait.finish, wait.keep_late = finish.begin, lookup.keep_late
            finish.wait, decode.leaves = wait.begin, wait.leaves
            captioning.captioner.start()
            self.stages = (*self.stages, wait)
        endings.done, endings.fetch = finish.complete, fetch.begin
        self._after_commit = AfterCommit(
            journal, self.tally, Drift(roles), clock, options, tell_cache=lookup.committed, read_on=parse.wake
        )
        intake.on_doubt(lookup.doubt)

    # ---- poll thread ------------------------------------------------------------------------------------------

    def take(self, record: Record, *repeats: Record) -> bool:
        entry = self.ledger.admit(record, self._clock.monotonic(), repeats)
        if entry is None:
            return False
        self.progress.moved()
        self.parse.entries.put(entry)
        return True

    def open(self, assignment: Assignment, offset: int) -> int:
        self._journal.begins(assignment.partition, offset)
        self.ledger.open(assignment, offset)
        return offset

    # ---- publish thread ---------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Entry]) -> None:
        self.progress.moved()
        self._after_commit.settle(entries)

    def render_again(self) -> None:
        self.ledger.refill(self._renderer.messages_again)
