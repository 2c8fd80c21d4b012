"""Runs a plan to its end: publishes its outcomes and events, then hidden newest outcomes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from workers.errors import Broken
from workers.pipeline.commit.polling import Poller
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.commit.work import close_quietly
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.ports import Clock, Publisher, RecordSource
from workers.republish.passes import Bounds, ReadTopic, publish_hidden
from workers.retag.plan_file import PlanFile
from workers.retag.planned_work import FATES, Pacing, PlannedWork
from workers.retag.remake import Remaker
from workers.types import Assignment

_CLOSE_S = 15.0
"""Seconds for all threads to end. The longest step is a transaction to a broker that hangs."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """The fates of a plan's records, in numbers.

    Args:
        planned: all records of the plan. In a finished run it is the sum of the numbers from `earlier` to `overtaken`.
        earlier: done by an earlier run, or gone before this run.
        rescored: new outcomes.
        images: events that request the image.
        unchanged: they fit the settings already.
        left: see `planned_work.Fate`.
        overtaken: gone from the topic, because the subject has a newer outcome; 0 if the run is not finished.
        repeated: newest outcomes that were republished as the last of their key.
        finished: false: the run was paused, and the same command continues it.
    """

    planned: int
    earlier: int
    rescored: int
    images: int
    unchanged: int
    left: int
    overtaken: int
    repeated: int
    finished: bool


@dataclass(slots=True, eq=False)
class PlanRun:
    """Carries out a plan until it is done or `stop` is called. A later run continues after the committed records.

    The caller's thread polls and remakes. Another thread publishes.

    Args:
        source, publisher: with the plan's consumer group and transactional id.
        events_to: topic of the events that request images.
        settled: called with the number of planned records that were just committed.
        before_passes: called once all planned records are committed.
    """

    plan: PlanFile
    remaker: Remaker
    read_topic: ReadTopic
    _: KW_ONLY
    source: RecordSource
    publisher: Publisher
    events_to: str
    pace: Pacing
    options: WorkerOptions
    clock: Clock
    settled: Callable[[int], object] = lambda _: None
    before_passes: Callable[[], object] = lambda: None
    _work: PlannedWork = field(init=False)
    _poller: Poller = field(init=False)
    _publishing: Publishing = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _read: threading.Event = field(default_factory=threading.Event)
    """All planned records are committed, or the run was stopped."""
    _crashed: BaseException | None = None
    _repeated: int = 0

    def __post_init__(self) -> None:
        limits = self.publisher.max_message_bytes
        self._work = PlannedWork(self.plan, self.remaker, limits, self.events_to, self.pace, self.clock, self.settled)
        opening: StageQueue[Assignment] = StageQueue()
        opened: StageQueue[tuple[Assignment, int]] = StageQueue()
        self._poller = Poller(self.source, self._work, self.options, opening, opened)
        self._publishing = Publishing(self.publisher, self._work, self.options, opening, opened, self._read.is_set)

    def stop(self) -> None:
        """End the run after the commit of the remade records. Any thread."""
        self._stop.set()

    def run(self) -> RunReport:
        """Run to the end. Raises Broken, Misconfigured, Unavailable: see `workers.ports`."""
        publishing = threading.Thread(target=self._run_publish, name="publish", daemon=True)
        publishing.start()
        try:
            while not self._read.is_set():
                self._poll()
                self._require_moving()
            while publishing.is_alive():
                publishing.join(0.5)
                self._require_moving()
        except BaseException as error:
            self._crashed = self._crashed or error
            raise
        finally:
            self._read.set()
            self.publisher.interrupt()
            self._work.ledger.wake()
            publishing.join(_CLOSE_S)
            close_quietly("publisher", self.publisher)
            close_quietly("record source", self.source)
        if self._crashed is not None:
            raise self._crashed
        return self._report()

    def _poll(self) -> None:
        self._poller.step()
        if self._stop.is_set():
            self._poller.admitting = False
            done = self._work.ledger.ready(1, 1) is None
        else:
            self._work.remake()
            done = self._poller.idle and self._work.complete(self.source.positions())
        if done:
            self._read.set()

    def _require_moving(self) -> None:
        if reason := self.publisher.stuck():
            raise Broken(reason)

    def _run_publish(self) -> None:
        try:
            while not self._read.is_set():
                self._publishing.step()
            if not self._ended_early():
                self.before_passes()
                options = self.options
                bounds = Bounds(options.transaction_outcomes, options.transaction_bytes, self._ended_early)
                self._repeated = publish_hidden(self.read_topic, self.publisher, bounds)
        except BaseException as error:  # noqa: BLE001  # a thread that dies unheard is a process that hangs
            self._crashed = self._crashed or error
            self._read.set()

    def _ended_early(self) -> bool:
        return self._stop.is_set() or self._crashed is not None

    def _report(self) -> RunReport:
        work, planned, finished = self._work, self.plan.head.lines, not self._stop.is_set()
        counts = {name: work.counts[name] for name in FATES}
        earlier = sum(work.earlier.values())
        return RunReport(
            planned=planned,
            earlier=earlier,
            overtaken=planned - earlier - sum(counts.values()) if finished else 0,
            repeated=self._repeated,
            finished=finished,
            **counts,
        )
