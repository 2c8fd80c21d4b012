"""The worker: starts and ends the threads of the pipeline, and reports stalls. ARCHITECTURE.md lists the threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from schemas.printable import counted
from workers import metrics
from workers.errors import Broken
from workers.pipeline.activity import ActivityLog, HeldUp, gauges
from workers.pipeline.annotator import Annotator
from workers.pipeline.commit.polling import Poller
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.commit.work import close_quietly
from workers.pipeline.journal import Journal
from workers.pipeline.known_results import KnownResults
from workers.pipeline.options import WorkerOptions
from workers.pipeline.pipeline import Pipeline
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import Roles
from workers.pipeline.stages.stage import StageQueue
from workers.ports import Clock, CorrectionLog, Intake, Publisher, RecordSource, ResultCache
from workers.types import Assignment, Health

__all__ = ["Worker", "WorkerOptions"]

_log = logging.getLogger(__name__)

_CLOSE_S = 6.0
"""Seconds that all threads have to end. Then the process ends without them: a commit to an absent broker may hang."""

_POLL_S = 30.0
"""Least time limit for a turn of the poll thread, in seconds. Each of its Kafka calls takes at most 10 s."""

_UNPROVEN = 100_000
"""The number of latest results that a failed self-test can invalidate. Their keys take 20 MB."""

_LATE_S = 8.0
"""Seconds after the drain's deadline in which the poll thread must end the drain."""

_WATCH_S = 1.0
"""Seconds between two looks of the watch thread."""

_ASK_AGAIN_S = 30.0
"""Seconds between two questions to a store that has not accepted our keys."""

_Connected = tuple[RecordSource, Publisher]


@dataclass(kw_only=True, eq=False)
class Worker:
    """Annotates records until it is stopped.

    Args:
        source: connects to Kafka and creates the record source, in bounded time, while the models warm up.
        publisher: creates the publisher in bounded time; it gets the source, for the group membership.
        refused_keys: asks the store; the remedy if it refuses our keys, empty if it accepts them, None if unknown.
        corrections: log of manual tag corrections; None: there are none.
    """

    source: Callable[[], RecordSource]
    publisher: Callable[[RecordSource], Publisher]
    when_warm: Callable[[], None] = lambda: None
    refused_keys: Callable[[], str | None] = lambda: ""
    intake: Intake
    cache: ResultCache
    corrections: CorrectionLog | None = None
    roles: Roles
    clock: Clock
    options: WorkerOptions

    def __post_init__(self) -> None:
        self._denied = ""
        self._journal = Journal(self.options.journal)
        self._stop = threading.Event()
        self._crashed: BaseException | None = None
        self._crash_lock = threading.Lock()
        self._warm = threading.Event()
        self._drained = threading.Event()
        self._made = threading.Event()
        self._pipeline: Pipeline | None = None
        self._held_up = HeldUp()
        self._publisher: Publisher | None = None
        self._busy_at = self.clock.monotonic()
        self._polling_since: float | None = None
        self._joined = False
        self._gauges: dict[metrics.ObservedGauge, metrics.Reader] = {metrics.READY: lambda: [(self.ready, {})]}

    def run(self) -> None:
        """Warm up, join the group, work until `stop`, drain, leave.

        Raises:
            Broken: the device or a client is broken.
            Misconfigured: a setting is wrong.
            Exception: a bug, in any thread.
        """
        with metrics.shown(self._gauges):
            self._run()

    def _run(self) -> None:
        threads = [threading.Thread(target=self._guarded(self._run_device), name="device", daemon=True)]
        threads[0].start()
        connected: Future[_Connected] = Future()
        threading.Thread(target=self._connect, args=(connected,), name="connect", daemon=True).start()
        threading.Thread(target=self._guarded(self._await_login), name="login", daemon=True).start()
        try:
            while not self._warm.wait(0.1):
                self._raise_crash()
            self._raise_crash()  # a broken device ends the worker even if no broker answers
            if self._stop.is_set():
                self._drained.set()
                threads[0].join(_CLOSE_S)
                return
            self.when_warm()
            if self.corrections is not None:
                self.corrections.catch_up(self._stop.is_set)  # before any event: no output may overwrite a correction
            source, self._publisher = connected.result()
            self._work(source, self._publisher, threads)
        finally:
            self._joined = False
            self._drained.set()
            self.intake.close()
            if self.roles.captioning is not None:
                self.roles.captioning.captioner.close()
            connected.add_done_callback(_close_connected)  # now, or when the connection is made
            self.cache.close()
        self._raise_crash()
        self._journal.close()

    def _connect(self, connected: Future[_Connected]) -> None:
        source: RecordSource | None = None
        try:
            source = self.source()
            connected.set_result((source, self.publisher(source)))
        except BaseException as error:  # noqa: BLE001  # the error ends the worker once the models are warm
            close_quietly("record source", source)
            connected.set_exception(error)

    def _await_login(self) -> None:
        """Ask the store until it accepts our keys: with few events, no download would show that they are wrong."""
        refusals = 0
        while (said := self.refused_keys()) != "":
            if said and not refusals:
                _log.warning("the object store refuses our keys; asking again every %g s: %s", _ASK_AGAIN_S, said)
            if said:
                self._denied = said
                refusals += 1
                metrics.RETRIES.add(dependency="s3")
            if self._drained.wait(_ASK_AGAIN_S):
                return
        self._denied = ""
        if refusals:
            _log.info("the object store accepts our keys, after %s", counted(refusals, "refusal"))

    def stop(self) -> None:
        """Begin the drain. Thread-safe; a second call does nothing."""
        self._stop.set()

    def _work(self, source: RecordSource, publisher: Publisher, threads: list[threading.Thread]) -> None:
        pipeline = self.make_pipeline(publisher)
        opening: StageQueue[Assignment] = StageQueue()
        opened: StageQueue[tuple[Assignment, int]] = StageQueue()
        poller = Poller(source, pipeline, self.options, opening, opened)
        publishing = Publishing(publisher, pipeline, self.options, opening, opened, self._drained.is_set)
        self._held_up = HeldUp(source.held_up)
        activity = ActivityLog(
            self.clock, pipeline.tally, pipeline.progress, pipeline.ledger, source.ends, self.options.background
        )
        loops: dict[str, Callable[[], None]] = {
            stage.thread: partial(self._repeat, stage.step)
            for stage in pipeline.stages
            if stage.thread is not None and stage is not pipeline.annotate  # already running
        }
        loops |= {
            "publish": partial(self._repeat, publishing.step),
            "poll": lambda: self._run_poll(source, poller, pipeline),
            "watch": lambda: self._run_watch(publisher, activity),
        }
        if self.corrections is not None:
            loops["corrections"] = partial(self._run_corrections, self.corrections)
        with metrics.shown(gauges(pipeline, poller, source, self.clock)):
            for name, loop in loops.items():
                thread = threading.Thread(target=self._guarded(loop), name=name, daemon=True)
                thread.start()
                threads.append(thread)
            self._shut_down(threads, pipeline, publisher)
        activity.summarize()

    def _shut_down(self, threads: list[threading.Thread], pipeline: Pipeline, publisher: Publisher) -> None:
        """Wait for `stop`, then shut down in order.

        1. The poll thread admits no further records. It continues to poll, so that the worker stays a group member.
        2. All admitted records are committed, or the drain's time is over.
        3. All threads end. Then `run` closes intake, publisher and source.
        """
        self._wait_for_drain()
        publisher.interrupt()
        for stage in pipeline.stages:
            stage.wake()
        pipeline.ledger.wake()
        until = time.monotonic() + (_CLOSE_S if self._crashed is None else 1.0)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                _log.warning("the %s thread did not end in time", thread.name)
        if self._crashed is None:
            for stage in pipeline.stages:
                stage.wind_up()

    def _wait_for_drain(self) -> None:
        """Wait for the end of the drain; crash if the poll thread hangs."""
        stopped_at: float | None = None
        while not self._drained.wait(0.1):
            now = self.clock.monotonic()
            if self._stop.is_set() and stopped_at is None:
                stopped_at = now
            if stopped_at is not None and now - stopped_at > self.options.drain_s + _LATE_S:
                since = self._polling_since
                where = "is idle" if since is None else f"has not come back for {now - since:.0f} s"
                self._crash(Broken(f"the drain's {self.options.drain_s:g} s have passed, and the poll thread {where}"))

    def _run_poll(self, source: RecordSource, poller: Poller, pipeline: Pipeline) -> None:
        deadline: float | None = None
        while not self._drained.is_set():
            self._polling_since = self.clock.monotonic()
            busy = poller.step()
            self._polling_since = None
            now = self.clock.monotonic()
            if busy or pipeline.ledger.records or not poller.idle:
                self._busy_at = now
            if not self._joined and deadline is None and source.joined():
                self._joined = True
                _log.info("ready: joined the group")
            if self._stop.is_set() and deadline is None:
                _log.info("draining: %s in progress", counted(pipeline.ledger.records, "record"))
                self._joined = False
                poller.admitting = False
                deadline = now + self.options.drain_s
            if deadline is not None and (not pipeline.ledger.records or now >= deadline):
                _log.info("drained, %s left uncommitted", counted(pipeline.ledger.records, "record"))
                self._drained.set()

    def _repeat(self, step: Callable[[], object]) -> None:
        while not self._drained.is_set():
            step()

    def _run_device(self) -> None:
        self.roles.warm_up()
        self._warm.set()
        while not self._made.wait(0.1):
            if self._drained.is_set():
                return
        assert self._pipeline is not None
        self._repeat(self._pipeline.annotate.step)

    def _run_corrections(self, corrections: CorrectionLog) -> None:
        try:
            self._repeat(partial(corrections.follow, 0.5))
        finally:
            corrections.close()

    def _run_watch(self, publisher: Publisher, activity: ActivityLog) -> None:
        """Report activity; end the process if a call of the publisher hangs."""
        told: str | None = None
        while not self._drained.wait(_WATCH_S):
            activity.step()
            self._held_up.step()
            told = self._log_readiness(told)
            if reason := publisher.stuck():
                raise Broken(reason)

    def _log_readiness(self, before: str | None) -> str | None:
        """Log a change of readiness; returns the reason if the worker is not ready.

        Joining and draining have their own log lines.
        """
        reason = self.unready() if self._joined else None
        if reason and reason != before:
            _log.warning("not ready: %s", reason)
        elif before and not reason and self._joined:
            _log.info("ready again")
        return reason

    def _guarded(self, loop: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                loop()
            except BaseException as error:  # noqa: BLE001  # a thread that dies silently would hang the process
                self._crash(error)

        return guarded

    def _crash(self, error: BaseException) -> None:
        """End the worker because of a thread's error, without further commits."""
        with self._crash_lock:
            if self._crashed is None:
                self._crashed = error
        self._joined = False
        self._warm.set()
        self._drained.set()

    def _raise_crash(self) -> None:
        if self._crashed is not None:
            raise self._crashed

    @property
    def ready(self) -> bool:
        return self.unready() is None

    @property
    def warm(self) -> bool:
        """Whether the models are warm. Thread-safe."""
        return self._warm.is_set() and self._crashed is None

    def unready(self) -> str | None:
        """The reason if the worker is not ready, else None. Thread-safe."""
        if not self._joined or self._publisher is None:
            return "joining the group" if self.warm else "warming up the models"
        why = [why for assignment, why in self._publisher.lost.items() if assignment.current]
        if self._pipeline is not None:
            why += [reason for stage in self._pipeline.stages for reason in stage.unready()]
        why += [self._denied] if self._denied else []
        return "; ".join(dict.fromkeys(why)) or None

    def notices(self) -> tuple[str, ...]:
        """Sentences about delays that leave the worker ready. Thread-safe."""
        pipeline = self._pipeline
        if pipeline is None:
            return ()
        return (*(line for stage in pipeline.stages for line in stage.notices()), *self._held_up.notices())

    def idle_s(self) -> float:
        return self.clock.monotonic() - self._busy_at

    def progress(self) -> Health:
        """Whether the worker is alive, and the reasons if not. Thread-safe."""
        pipeline = self._pipeline
        if pipeline is None:
            return Health(self._crashed is None)
        now = self.clock.monotonic()
        reasons = [why for stage in pipeline.stages if (why := stage.stalled(now))]
        since = self._polling_since
        if since is not None and now - since > max(self.options.stall_timeout_s, _POLL_S):
            reasons.append(f"the poll thread has not come back for {now - since:.0f} s")
        still = min(now - pipeline.progress.moved_at, self.intake.at_work()[1])
        if pipeline.progress.working() and still > self.options.stall_timeout_s:
            reasons.append(f"{counted(pipeline.progress.working(), 'image')} in hand and none moved for {still:.0f} s")
        reasons += pipeline.progress.stuck({name: s for stage in pipeline.stages for name, s in stage.limits_s.items()})
        return Health(not reasons, tuple(reasons), in_flight=pipeline.progress.counts())

    def make_pipeline(self, publisher: Publisher) -> Pipeline:
        """The pipeline of which `progress` and `notices` tell from now on."""
        self._pipeline = Pipeline(
            intake=self.intake,
            results=KnownResults(
                self.cache,
                self.roles,
                self.options.s3_endpoint,
                self.options.judge,
                allows=self.options.allows,
                scale_of=self.options.scale_of,
                unproven=_UNPROVEN if self.options.self_test_s else 0,
                purges=self.options.forget_on_remove,
                rendition=self.options.rendition,
            ),
            annotator=Annotator(self.roles),
            renderer=Renderer(self.roles, self.options, publisher.max_message_bytes, self.clock),
            journal=self._journal,
            clock=self.clock,
            options=self.options,
            crash=self._crash,
        )
        self._made.set()
        return self._pipeline


def _close_connected(connected: Future[_Connected]) -> None:
    if connected.exception() is None:
        source, publisher = connected.result()
        close_quietly("publisher", publisher)
        close_quietly("record source", source)
