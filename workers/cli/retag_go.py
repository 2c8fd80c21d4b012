"""`tagstream retag --go` and `--pause`: a plan carried out, or stopped, on real topics."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from schemas.printable import counted
from workers.cli import terminal
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.audit.claims import Read
    from workers.retag.go import Go, GoReport
    from workers.retag.going import Pacing
    from workers.retag.last_pass import Spans
    from workers.retag.plan_file import PlanFile
    from workers.service.process import Slot
    from workers.settings import Settings

_LOOK_S = 0.3
"""How often a run looks whether it is to pause."""
_PAUSED_S = 60.0
"""How long `--pause` waits for the run's end."""
_TOLD: Final = {
    "earlier": "done by an earlier run",
    "rescored": "made anew from their scores",
    "images": "events sent that ask for the image",
    "unchanged": "already what the settings give",
    "left": "left as they are",
    "overtaken": "gone: a newer outcome took their place",
    "repeated": "newest outcomes published again, to be the last of their subject",
}


def go(settings: Settings, path: Path, events_to: str | None, rate: float | None, *, as_json: bool) -> None:
    """Carry out a plan, and print what became of it."""
    from workers.cli.emit import Pace, require_rate
    from workers.retag.plan_file import PlanFile

    topic = events_to or settings.input_topics[0]
    if topic == settings.output_topic:
        raise Misconfigured(f"--events-to {topic}: that is the topic of the outcomes")
    require_rate(rate)
    plan = PlanFile.open(path)
    report = carry_out(settings, plan, topic, Pace(rate))
    if as_json:
        typer.echo(terminal.as_json({**asdict(report), "plan": str(path), "digest": plan.digest}, indent=2))
        return
    terminal.say(f"{counted(report.planned, 'planned record')}:")
    for name, what in _TOLD.items():
        if count := getattr(report, name):
            terminal.say(f"{count:9,} {what}")
    if not report.finished:
        terminal.say(f"paused: tagstream retag --go {path} goes on")


def pause(settings: Settings, path: Path) -> None:
    """Let the run of a plan end; what it has judged is committed."""
    from workers.retag.plan_file import PlanFile

    slot, asked = _place(settings, PlanFile.open(path))
    if not _is_taken(slot):
        terminal.say("no run of this plan has this TAGSTREAM_STATE_DIR: nothing to pause")
        return
    asked.touch()
    until = time.monotonic() + _PAUSED_S
    while _is_taken(slot):
        if time.monotonic() > until:
            raise Misconfigured(f"the run did not stop within {_PAUSED_S:g} s; it will stop at its next record")
        time.sleep(_LOOK_S)
    terminal.say(f"paused: tagstream retag --go {path} goes on")


def _place(settings: Settings, plan: PlanFile) -> tuple[partial[Slot], Path]:
    """What a plan's run holds on this machine, and its pause.

    The pause is a file that is there once the run is to pause.
    """
    from workers.retag.going import group_of
    from workers.service.process import Slot

    folder, name = settings.state_dir / "retag", group_of(plan.digest)
    return partial(Slot, folder, name), folder / f"{name}.pause"


def _is_taken(slot: partial[Slot]) -> bool:
    with slot() as held:
        return held.number > 0


def read_enriched(settings: Settings, take: Callable[[Read], None], spans: Spans | None) -> None:
    """`workers.retag.last_pass.ReadTopic` on Kafka."""
    from workers.backends.kafka import between, tail
    from workers.cli.clients import security, servers
    from workers.cli.topic_reading import Foreign, drain

    address, login, topic = servers(settings), security(settings), settings.output_topic
    if spans is None:
        reading = tail(address, [topic], start="beginning", follow=False, security=login)
    else:
        reading = between(address, spans, security=login)
    with reading:
        drain(reading, f"offsets of {topic}, last pass", Foreign().taking(take))


def carry_out(settings: Settings, plan: PlanFile, events_to: str, pace: Pacing) -> GoReport:
    """Run a plan until it is done or stopped.

    Raises:
        Misconfigured: the plan does not fit any more, another process carries it out, or a setting is wrong.
        Unavailable: no broker answers.
        Broken: another process took the transactional id.
    """
    from workers.service.process import stop_on_signals

    (slot, asked), stopping = _place(settings, plan), threading.Event()
    with ExitStack() as cleanup:
        if cleanup.enter_context(slot()).number:
            raise Misconfigured("another process carries out this plan: wait for its end, or --pause it")
        asked.unlink(missing_ok=True)
        cleanup.enter_context(stop_on_signals(stopping.set))
        progress = cleanup.enter_context(ExitStack())
        advance = progress.enter_context(terminal.counting("planned records", plan.head.lines))
        told = {"settled": advance, "before_passes": progress.close}
        going = _made(settings, plan, stopping, events_to=events_to, pace=pace, **told)
        gc.collect()
        gc.freeze()  # parsed events are garbage soon: spare the collector all that is imported

        def watch() -> None:
            while not stopping.wait(_LOOK_S):
                if asked.exists():
                    stopping.set()
            going.stop()

        threading.Thread(target=watch, name="pause", daemon=True).start()
        try:
            return going.run()
        finally:
            stopping.set()


def _made(settings: Settings, plan: PlanFile, stopping: threading.Event, *, events_to: str, **more: Any) -> Go:
    """The run, with its clients."""
    from workers.backends.kafka import require_topics
    from workers.cli.clients import own_publisher, record_source, security, servers
    from workers.cli.retag import heard, state_of, today_of
    from workers.pipeline.options import WorkerOptions
    from workers.ports import SystemClock
    from workers.retag.go import Go
    from workers.retag.going import group_of
    from workers.retag.judging import Retagger

    topics, today, group = [settings.output_topic, events_to], today_of(settings), group_of(plan.digest)
    require_topics(servers(settings), topics, security=security(settings))
    state = state_of(settings, topics[0])
    plan.require_fit(topics[0], state.id, state.partitions, today.parts)
    said = heard(settings, stopping.is_set)
    source = record_source(settings, group, topics[:1])
    return Go(
        plan,
        Retagger(today, said, SystemClock()),
        partial(read_enriched, settings),
        source=source,
        publisher=own_publisher(settings, group, topics, source.membership),
        events_to=events_to,
        options=WorkerOptions.of(settings),
        clock=SystemClock(),
        **more,
    )
