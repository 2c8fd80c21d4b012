"""`tagstream retag`: changes outcomes from the scores that they carry, without the images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.assembly.progress import Pace, require_rate
from workers.cli import terminal
from workers.cli.terminal import moment_ms
from workers.errors import Misconfigured

_TOLD: Final = {
    "earlier": "done by an earlier run",
    "rescored": "made anew from stored scores",
    "images": "sent as an event that asks for the image",
    "unchanged": "already what the settings give",
    "left": "left alone",
    "overtaken": "gone: a newer outcome took the place",
    "repeated": "published again: the newest outcome comes last",
}


app = typer.Typer(
    help="Bring outcomes up to today's settings from the scores that they carry.\n\n"
    "[dim]What would change:[/]  tagstream retag plan -o plan.jsonl\n\n"
    "[dim]To do it:[/]           tagstream retag go plan.jsonl --rate 50",
    no_args_is_help=True,
)


@app.command()
def plan(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PLAN", dir_okay=False, help="The plan's file.")],
    prefix: Annotated[str, typer.Option(metavar="BUCKET/PREFIX", help="Only subjects that begin so.")] = "",
    tagger: Annotated[str, typer.Option(metavar="DIGEST", help="Only outcomes of this tagger.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Only outcomes that show this tag; may be repeated.")] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            help="Only for this reason or change, as the plan names it, or partial images that name this reason; may "
            "be repeated."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only outcomes published since: 2026-01-31, or 12h, 7d ago.")
    ] = None,
    without_facts: Annotated[
        bool,
        typer.Option("--without-facts", help="Ask for the images of outcomes that lack the facts of their pictures."),
    ] = False,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write what changes, for `tagstream index serve --changes FILE`."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Find out what would change, and write it down.

    The plan reads the enriched topic and compares the newest outcome of each subject with what the settings would give
    now: models, labels, thresholds, profiles and corrections. It publishes nothing, reads no image and loads no model.

    [dim]What would change:[/]  tagstream retag plan -o plan.jsonl

    [dim]Image by image:[/]     tagstream retag plan -o plan.jsonl --changes changes.jsonl

    [dim]Missing captions:[/]   tagstream retag plan -o plan.jsonl --reason caption-unavailable
    """
    from schemas.dead_letter import REASONS_OF
    from workers.assembly.retagging import make_plan
    from workers.pipeline.published import NEEDS
    from workers.retag.planning import OutcomeChoice
    from workers.retag.remake import CHANGES, STAYS

    known = dict.fromkeys((*NEEDS, *STAYS, *CHANGES, *REASONS_OF["annotate"], *REASONS_OF["caption"]))
    for each in reason or ():
        if each not in known:
            raise Misconfigured(f"--reason {each}: there is no such reason. There are: {', '.join(known)}")
    choice = OutcomeChoice(
        prefix=prefix,
        tagger=tagger.lower(),
        tags=frozenset(tag or ()),
        since_ms=None if since is None else moment_ms(since),
        reasons=frozenset(reason or ()),
        facts=without_facts,
    )
    settings = needed("kafka_servers")
    if without_facts and settings.facts == "off":
        raise Misconfigured("--without-facts: TAGSTREAM_FACTS is off, and the new outcomes would lack them too")
    report, digest = make_plan(settings, output, choice, changes, terminal.counting, terminal.note)
    if as_json:
        typer.echo(terminal.as_json({**report.as_json(), "plan": str(output), "digest": digest}, indent=2))
    else:
        for line in report.lines():
            terminal.say(line)
        terminal.say(f"{output}: nothing has been changed yet: `tagstream retag go {output}` does it")


@app.command()
def go(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", dir_okay=False, help="The plan's file.")],
    events_to: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC",
            help="Topic of the events that request images. Default: the first background topic, or else the first live "
            "one.",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="Most of these events a second.", show_default=False)
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Only the images that people accepted: a file of `tagstream index serve --choices FILE`.",
        ),
    ] = None,
    dry_run: terminal.DryRunOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Do what a plan says.

    Publishes new outcomes by the settings that the plan was made with, and events for images that are needed. After an
    interruption the same command goes on, and publishes nothing twice.

    [dim]Gently:[/]              tagstream retag go plan.jsonl --rate 50

    [dim]Accepted images only:[/]  tagstream retag go plan.jsonl --only choices.jsonl
    """
    from workers.assembly.choices import Choices
    from workers.assembly.retagging import carry_out, chosen
    from workers.retag.plan_file import PlanFile

    settings = needed("kafka_servers")
    topic = events_to or next(iter(settings.background_topics), settings.live_topic)
    if topic == settings.output_topic:
        raise Misconfigured(f"--events-to {topic}: that is the topic of the outcomes")
    require_rate(rate)
    opened = PlanFile.open(plan)
    said: dict[str, Any] = {"plan": str(plan), "digest": opened.digest}
    if only is not None:
        whole, (opened, choices) = opened.head.lines, chosen(opened, Choices.read(only, opened.digest))
        said["choices"] = choices.document(whole)
        for line in choices.lines(whole):
            terminal.note(line)
    told = {"planned": opened.head.lines}
    if not dry_run:
        report = carry_out(settings, opened, topic, Pace(rate), terminal.counting)
        told = asdict(report)
    if as_json:
        typer.echo(terminal.as_json({**told, **said}, indent=2))
        return
    if dry_run:
        terminal.say(f"{counted(opened.head.lines, 'planned record')}: nothing has been changed yet")
        return
    terminal.say(f"{counted(report.planned, 'planned record')}:")
    for name, what in _TOLD.items():
        if count := getattr(report, name):
            terminal.say(f"{count:9,} {what}")
    if not report.finished:
        terminal.say("stopped: the same command goes on")
