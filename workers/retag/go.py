"""One run of a plan: the threads around the judging, from the first planned record to the last pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from workers.errors import Broken
from workers.pipeline.commit.ledger import Ledger
from workers.pipeline.commit.polling import Poller
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.commit.work import close_quietly
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.ports import Clock, Publisher, RecordSource
from workers.retag.going import GoWork, JudgeStage
from workers.retag.judging import Retagger
from workers.retag.last_pass import Topic, passes
from workers.retag.plan_file import PlanFile
from workers.types import Assignment, Partition

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
        overtaken: gone from the topic, for a newer outcome of the subject.
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


class Go:
    """Carries out a plan until it is done or `stop` is called; what was committed stays, the rest comes again.

    | thread | owns |
    |---|---|
    | poll | the record source; admission |
    | judge | the judging of planned records |
    | publish | the publisher; in the end the last pass |
    | watch | nothing: it asks whether the publisher hangs |

    Args:
        source, publisher: of the plan's own group and transactional id.
        events_to: topic of the events that ask for images.
        pace: returns when the next of these may be sent; false: not any more.
        settled: told how many planned records are done now.
        before_passes: called once all that is planned is committed.
    """

    def __init__(
        self,
        plan: PlanFile,
        judge: Retagger,
        topic: Topic,
        *,
        source: RecordSource,
        publisher: Publisher,
        events_to: str,
        options: WorkerOptions,
        clock: Clock,
        pace: Callable[[], bool] = lambda: True,
        settled: Callable[[int], object] = lambda _: None,
        before_passes: Callable[[], object] = lambda: None,
    ) -> None:
        self._before_passes = before_passes
        self._plan = plan
        self._topic = topic
        self._options = options
        self._stop = threading.Event()
        self._read = threading.Event()
        """All that is planned is committed, or the run was stopped."""
        self._ended = threading.Event()
        self._crashed: BaseException | None = None
        self._repeated = 0
        self._finished = False
        self._resting: set[Assignment] = set()
        self._going_on: set[Assignment] = set()
        ledger = Ledger()
        self._source, self._publisher = source, publisher
        self._stage = JudgeStage(
            judge,
            ledger,
            publisher.max_message_bytes,
            digest=plan.digest,
            topic=plan.head.topic,
            events_to=events_to,
            pace=lambda: not self._stop.is_set() and pace(),
        )
        self._work = GoWork(plan, ledger, self._stage, clock, settled)
        opening: StageQueue[Assignment] = StageQueue()
        opened: StageQueue[tuple[Assignment, int]] = StageQueue()
        self._poller = Poller(source, self._work, options, opening, opened)
        self._publishing = Publishing(publisher, self._work, options, opening, opened, self._read.is_set)

    def stop(self) -> None:
        """End it: what is judged is committed, the rest waits for the next run. Any thread."""
        self._stage.stopped = True
        self._stop.set()

    def run(self) -> GoReport:
        """
        Raises:
            Broken, Misconfigured, Unavailable: as the ports say.
        """
        loops: dict[str, Callable[[], None]] = {
            "poll": self._run_poll,
            "judge": self._run_judge,
            "publish": self._run_publish,
        }
        threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True) for name, loop in loops.items()
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._ended.wait(0.5):
                if reason := self._publisher.stuck():
                    raise Broken(reason)
        finally:
            self._close(threads)
        if self._crashed is not None:
            raise self._crashed
        return self._report()

    def _close(self, threads: list[threading.Thread]) -> None:
        self._read.set()
        self._ended.set()
        self._publisher.interrupt()
        self._stage.wake()
        self._work.ledger.wake()
        until = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        close_quietly("publisher", self._publisher)
        close_quietly("record source", self._source)

    def _report(self) -> GoReport:
        work = self._work
        counts = {name: work.counts[name] for name in ("rescored", "images", "unchanged", "left")}
        planned, done = self._plan.head.lines, work.earlier + sum(counts.values()) + work.overtaken
        if self._finished and done != planned:
            raise Broken(f"{done:,} of {planned:,} planned records are accounted for: this must not happen")
        return GoReport(
            planned=planned,
            earlier=work.earlier,
            overtaken=work.overtaken,
            repeated=self._repeated,
            finished=self._finished,
            **counts,
        )

    # ---- threads ----------------------------------------------------------------------------------------------

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001  # a thread that dies unheard is a process that hangs
            if self._crashed is None:
                self._crashed = error
            self._read.set()
            self._ended.set()

    def _run_poll(self) -> None:
        while not self._read.is_set():
            self._poller.step()
            if self._poller.idle:
                self._rest(self._work.finished(self._source.positions()))
            if self._stop.is_set():
                self._poller.stop_admitting()
                if self._work.ledger.ready(1, 1) is None:
                    self._read.set()
            elif self._poller.idle and self._work.complete:
                self._read.set()

    def _rest(self, finished: list[Partition]) -> None:
        """Read no more of these: behind the plan stands what this run publishes."""
        held = self._work.ledger.assignments()
        rest = {each for each in held if each.partition in finished}
        self._source.pause(sorted(each.partition for each in rest - self._resting))
        # A pause that meets a partition's next assignment is taken back.
        self._source.resume(sorted(each.partition for each in set(held) - rest - self._going_on))
        self._resting, self._going_on = rest, set(held) - rest

    def _run_judge(self) -> None:
        while not self._read.is_set():
            self._stage.step()

    def _run_publish(self) -> None:
        while not self._read.is_set():
            self._publishing.step()
        if not self._stop.is_set() and self._crashed is None:
            self._before_passes()
            most, most_bytes = self._options.transaction_outcomes, self._options.transaction_bytes
            self._repeated = passes(self._topic, self._publisher, most, most_bytes, self._ended_early)
            self._finished = not self._ended_early()
        self._ended.set()

    def _ended_early(self) -> bool:
        return self._stop.is_set() or self._crashed is not None
