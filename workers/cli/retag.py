"""`tagstream retag`: change your mind without looking at the pictures again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import NOTHING_YET, WITHOUT_GO, moment_ms
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.retag.report import Prices


def retag(
    plan: Annotated[bool, typer.Option("--plan", help="Find out what would change, and write it down.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PLAN", dir_okay=False, help="The plan's file.")
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="BUCKET/PREFIX", help="Only subjects that begin so.")] = "",
    tagger: Annotated[str, typer.Option(metavar="DIGEST", help="Only outcomes of this tagger.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Only outcomes that show this tag; may be repeated.")] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Only for this reason or change, as the plan names it; may be repeated."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only outcomes published since: 2026-01-31, or 12h, 7d ago.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="What an image costs: a file of `tagstream bench -o`, or a profile of capacity's."),
    ] = None,
    device_price: Annotated[float | None, typer.Option(min=0, help="Of an hour of that device.")] = None,
    gigabyte_price: Annotated[float | None, typer.Option(min=0, help="Of a gigabyte fetched from the store.")] = None,
    sample: Annotated[int, typer.Option(min=1, max=10_000, help="Outcomes on the page.")] = 200,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write a page of a sample, before and after.")
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write what changes, for `tagstream index serve --changes FILE`."
        ),
    ] = None,
    go: Annotated[
        Path | None,
        typer.Option("--go", metavar="PLAN", dir_okay=False, help=f"Do what a plan says. {WITHOUT_GO}"),
    ] = None,
    pause: Annotated[
        Path | None, typer.Option("--pause", metavar="PLAN", dir_okay=False, help="Let the run of a plan end here.")
    ] = None,
    events_to: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC", help="Topic of the events that request images; by default the first input topic."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="So many of these events a second at most.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Bring outcomes up to today's settings from the scores that they carry.

    The plan reads the enriched topic and compares the newest outcome of each subject with what the settings would give
    now: models, labels, thresholds, profiles and corrections. It publishes nothing, reads no image and loads no model.

    [dim]What would change:[/]  tagstream retag --plan -o plan.jsonl

    To go is to publish: new outcomes of what was planned, by the settings that the plan was made with, and events for
    what needs the image. Run it again after any interruption: it goes on, and publishes nothing twice.

    [dim]To look at some:[/]    tagstream retag --plan -o plan.jsonl --page sample.html

    [dim]To do it:[/]           tagstream retag --go plan.jsonl --rate 50
    """
    if [plan, go is not None, pause is not None].count(True) != 1 or plan != (output is not None):
        raise Misconfigured("say what to do: tagstream retag --plan -o PLAN, --go PLAN or --pause PLAN")
    if go is not None or pause is not None:
        from workers.cli import retag_go

        if go is not None:
            retag_go.go(needed("kafka_servers"), go, events_to, rate, as_json=as_json)
        elif pause is not None:
            retag_go.pause(needed("kafka_servers"), pause)
        return
    assert output is not None
    from workers.assembly.retagging import make_plan
    from workers.retag.judgement import CHANGES, NEEDS, STAYS
    from workers.retag.reading import OutcomeChoice

    known = (*NEEDS, *STAYS, *CHANGES)
    for each in reason or ():
        if each not in known:
            raise Misconfigured(f"--reason {each}: there is no such reason. There are: {', '.join(known)}")
    choice = OutcomeChoice(
        prefix=prefix,
        tagger=tagger.lower(),
        tags=frozenset(tag or ()),
        since_ms=None if since is None else moment_ms(since),
        reasons=frozenset(reason or ()),
    )
    prices = _prices(profile, device_price, gigabyte_price)
    report, digest = make_plan(
        needed("kafka_servers"), output, choice, prices, page, sample, changes, terminal.counting, terminal.note
    )
    if as_json:
        typer.echo(terminal.as_json({**report.as_json(), "plan": str(output), "digest": digest}, indent=2))
    else:
        for line in report.lines():
            terminal.say(line)
        terminal.say(f"{output}: {NOTHING_YET}")


def _prices(profile: str | None, device_hour: float | None, gigabyte: float | None) -> Prices:
    """
    Raises:
        Misconfigured: there is no such profile.
    """
    from workers.cli.capacity import read_profile
    from workers.retag.report import Prices

    image_s = None if profile is None else read_profile(profile).image_s
    if device_hour is not None and image_s is None:
        raise Misconfigured("--device-price needs --profile, which says how long the device takes for an image")
    return Prices(image_s, device_hour, gigabyte)
