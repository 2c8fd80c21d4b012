"""One run of a plan, up to the last pass."""

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
from workers.retag.going import FATES, GoWork, Pacing
from workers.retag.last_pass import ReadTopic, publish_hidden
from workers.retag.passes import Bounds
from workers.retag.plan_file import PlanFile
from workers.retag.remake import Remaker
from workers.types import Assignment

_CLOSE_S = 15.0
"""How long the end of all threads may take; one transaction to a broker that hangs is the longest step."""


@dataclass(frozen=True, slots=True)
class GoReport:
    """What became of a plan.

    Args:
        planned: records of the plan: the sum of `earlier` and what follows it, up to `overtaken`, once it is finished.
        earlier: done by an earlier run, or gone before this one began.
        rescored: new outcomes.
        images: events that ask for the image.
        unchanged: already what the settings give.
        left: not touched, for the topic does not take the new outcome, or today's settings leave the old one alone.
        overtaken: gone from the topic, for a newer outcome of the subject; 0 while it is not finished.
        repeated: newest outcomes that were published again, so that they are the last.
        finished: false: paused; the same command goes on.
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
class Go:
    """Carries out a plan until it is done or `stop` is called; what was committed stays, the rest comes again.

    The caller's thread polls and judges. A thread of its own publishes, and makes the last pass in the end.

    Args:
        source, publisher: of the plan's own group and transactional id.
        events_to: topic of the events that ask for images.
        settled: told how many planned records are done now.
        before_passes: called once all that is planned is committed.
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
    _work: GoWork = field(init=False)
    _poller: Poller = field(init=False)
    _publishing: Publishing = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _read: threading.Event = field(default_factory=threading.Event)
    """All that is planned is committed, or the run was stopped."""
    _crashed: BaseException | None = None
    _repeated: int = 0

    def __post_init__(self) -> None:
        limits = self.publisher.max_message_bytes
        self._work = GoWork(self.plan, self.remaker, limits, self.events_to, self.pace, self.clock, self.settled)
        opening: StageQueue[Assignment] = StageQueue()
        opened: StageQueue[tuple[Assignment, int]] = StageQueue()
        self._poller = Poller(self.source, self._work, self.options, opening, opened)
        self._publishing = Publishing(self.publisher, self._work, self.options, opening, opened, self._read.is_set)

    def stop(self) -> None:
        """End it: what is judged is committed, the rest waits for the next run. Any thread."""
        self._stop.set()

    def run(self) -> GoReport:
        """
        Raises:
            Broken, Misconfigured, Unavailable: as the ports say.
        """
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
            self._poller.stop_admitting()
            done = self._work.ledger.ready(1, 1) is None
        else:
            self._work.judge()
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

    def _report(self) -> GoReport:
        work, planned, finished = self._work, self.plan.head.lines, not self._stop.is_set()
        counts = {name: work.counts[name] for name in FATES}
        earlier = sum(work.earlier.values())
        return GoReport(
            planned=planned,
            earlier=earlier,
            overtaken=planned - earlier - sum(counts.values()) if finished else 0,
            repeated=self._repeated,
            finished=finished,
            **counts,
        )
