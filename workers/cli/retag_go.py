"""`tagstream retag --go` and `--pause`: a plan carried out, or stopped, on real topics."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from schemas.printable import counted
from workers.cli import terminal
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.retag.go import Go, GoReport
    from workers.retag.last_pass import Take
    from workers.retag.plan_file import PlanFile
    from workers.settings import Settings
    from workers.types import Partition

_LOOK_S = 0.3
"""How often a run looks whether it is to pause."""
_PAUSED_S = 60.0
"""How long `--pause` waits for the run's end."""


def go(settings: Settings, path: Path, events_to: str | None, rate: float | None, *, as_json: bool) -> None:
    """Carry out a plan, and print what became of it."""
    going = Going(settings, path, events_to or settings.input_topics[0], rate)
    report = going.run()
    if as_json:
        typer.echo(terminal.as_json({**asdict(report), "plan": str(path), "digest": going.plan.digest}, indent=2))
        return
    for line in _lines(report):
        terminal.say(line)
    if not report.finished:
        terminal.say(f"paused: tagstream retag --go {path} goes on")


def pause(settings: Settings, path: Path) -> None:
    """Let the run of a plan end; what it has judged is committed."""
    from workers.retag.plan_file import PlanFile

    place = _Place(settings, PlanFile.open(path))
    if not place.is_taken():
        terminal.say("no run of this plan has this TAGSTREAM_STATE_DIR: nothing to pause")
        return
    place.ask()
    until = time.monotonic() + _PAUSED_S
    while place.is_taken():
        if time.monotonic() > until:
            raise Misconfigured(f"the run did not stop within {_PAUSED_S:g} s; it will stop at its next record")
        time.sleep(_LOOK_S)
    terminal.say(f"paused: tagstream retag --go {path} goes on")


class _Place:
    """What one machine knows of the run of a plan, in TAGSTREAM_STATE_DIR: whether there is one, and its pause."""

    def __init__(self, settings: Settings, plan: PlanFile) -> None:
        from workers.retag.going import group_of

        self._name = group_of(plan.digest)
        self._folder = settings.state_dir / "retag"
        self._pause = self._folder / f"{self._name}.pause"

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Raises:
            Misconfigured: another process carries out the plan.
        """
        from workers.service.process import Slot

        with Slot(self._folder, self._name) as slot:
            if slot.number:
                raise Misconfigured("another process carries out this plan: wait for its end, or --pause it")
            self._pause.unlink(missing_ok=True)
            yield

    def is_taken(self) -> bool:
        from workers.service.process import Slot

        with Slot(self._folder, self._name) as slot:
            return slot.number > 0

    def ask(self) -> None:
        """Ask the run to pause."""
        self._pause.touch()

    @property
    def asked(self) -> bool:
        return self._pause.exists()


class EnrichedTopic:
    """`workers.retag.last_pass.Topic` on Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(self, take: Take, spans: Mapping[Partition, tuple[int, int]] | None = None) -> None:
        from workers.backends.kafka import between, tail
        from workers.cli.clients import security, servers
        from workers.cli.topic_reading import Foreign, drain

        address, login, topic = servers(self._settings), security(self._settings), self._settings.output_topic
        if spans is None:
            reading = tail(address, [topic], start="beginning", follow=False, security=login)
        else:
            reading = between(address, spans, security=login)
        with reading:
            drain(reading, f"offsets of {topic}, last pass", Foreign().taking(take))


class Going:
    """One run, with its clients."""

    def __init__(self, settings: Settings, path: Path, events_to: str, rate: float | None) -> None:
        from workers.cli.emit import Pace, require_rate
        from workers.retag.plan_file import PlanFile

        if events_to == settings.output_topic:
            raise Misconfigured(f"--events-to {events_to}: that is the topic of the outcomes")
        self._settings = settings
        self._events_to = events_to
        self.plan = PlanFile.open(path)
        self._stopping = threading.Event()
        require_rate(rate)
        self._pace = Pace(rate)

    def run(self) -> GoReport:
        """
        Raises:
            Misconfigured: the plan does not fit any more, another process carries it out, or a setting is wrong.
            Unavailable: no broker answers.
            Broken: another process took the transactional id.
        """
        from workers.service.process import stop_on_signals

        place = _Place(self._settings, self.plan)
        with ExitStack() as cleanup:
            cleanup.enter_context(place.held())
            cleanup.enter_context(stop_on_signals(self._stopping.set))
            progress = cleanup.enter_context(ExitStack())
            advance = progress.enter_context(terminal.counting("planned records", self.plan.head.lines))
            going = self._prepare(advance, progress.close)
            gc.collect()
            gc.freeze()  # parsed events are garbage soon: spare the collector all that is imported
            threading.Thread(target=self._watch, args=(place, going), name="pause", daemon=True).start()
            try:
                return going.run()
            finally:
                self._stopping.set()

    def _watch(self, place: _Place, going: Go) -> None:
        while not self._stopping.wait(_LOOK_S):
            if place.asked:
                self._stopping.set()
        going.stop()

    def _prepare(self, advance: Callable[[int], None], before_passes: Callable[[], None]) -> Go:
        from workers.backends.kafka import KafkaPublisher, KafkaRecordSource, require_topics
        from workers.cli.clients import CONNECT_S, security, servers
        from workers.cli.retag import heard, state_of, today_of
        from workers.pipeline.options import WorkerOptions
        from workers.ports import SystemClock
        from workers.retag.go import Go
        from workers.retag.going import group_of
        from workers.retag.judging import Retagger

        settings, address, login = self._settings, servers(self._settings), security(self._settings)
        topic, today = settings.output_topic, today_of(settings)
        require_topics(address, [topic, self._events_to], security=login)
        state = state_of(settings, topic)
        self.plan.require_fit(topic, state.id, state.partitions, today.parts)
        said = heard(settings, self._stopping.is_set)
        group = group_of(self.plan.digest)
        source = KafkaRecordSource(
            address,
            group,
            [topic],
            security=login,
            session_timeout_s=settings.kafka_session_timeout_s,
            batch_bytes=settings.polled_bytes,
            connect_timeout_s=CONNECT_S,
        )
        publisher = KafkaPublisher(
            address,
            group,
            group,
            membership=source.membership,
            output_topics=[topic, self._events_to],
            security=login,
            transaction_timeout_s=settings.kafka_transaction_timeout_s,
            connect_timeout_s=CONNECT_S,
        )
        return Go(
            self.plan,
            Retagger(today, said, SystemClock()),
            EnrichedTopic(settings),
            source=source,
            publisher=publisher,
            events_to=self._events_to,
            options=WorkerOptions.of(settings),
            clock=SystemClock(),
            pace=self._pace,
            settled=advance,
            before_passes=before_passes,
        )


def _lines(report: GoReport) -> Iterator[str]:
    yield f"{counted(report.planned, 'planned record')}:"
    told = {
        "earlier": "done by an earlier run",
        "rescored": "made anew from their scores",
        "images": "events sent that ask for the image",
        "unchanged": "already what the settings give",
        "left": "left as they are",
        "overtaken": "gone: a newer outcome took their place",
        "repeated": "newest outcomes published again, to be the last of their subject",
    }
    for name, what in told.items():
        if count := getattr(report, name):
            yield f"{count:9,} {what}"
