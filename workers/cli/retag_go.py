"""`tagstream retag --go` and `--pause`: a plan carried out, or stopped, on real topics."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from schemas.printable import counted
from workers.cli import terminal
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.service.process import Slot
    from workers.settings import Settings

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
    from workers.assembly.pace import Pace, require_rate
    from workers.assembly.retagging import carry_out
    from workers.retag.plan_file import PlanFile

    topic = events_to or settings.input_topics[0]
    if topic == settings.output_topic:
        raise Misconfigured(f"--events-to {topic}: that is the topic of the outcomes")
    require_rate(rate)
    plan = PlanFile.open(path)
    report = carry_out(settings, plan, topic, Pace(rate), terminal.counting)
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
    from workers.assembly.retagging import LOOK_S, place_of
    from workers.retag.plan_file import PlanFile

    slot, asked = place_of(settings, PlanFile.open(path))
    if not _is_taken(slot):
        terminal.say("no run of this plan has this TAGSTREAM_STATE_DIR: nothing to pause")
        return
    asked.touch()
    until = time.monotonic() + _PAUSED_S
    while _is_taken(slot):
        if time.monotonic() > until:
            raise Misconfigured(f"the run did not stop within {_PAUSED_S:g} s; it will stop at its next record")
        time.sleep(LOOK_S)
    terminal.say(f"paused: tagstream retag --go {path} goes on")


def _is_taken(slot: partial[Slot]) -> bool:
    with slot() as held:
        return held.number > 0
