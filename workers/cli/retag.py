"""`tagstream retag`: change your mind without looking at the pictures again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli import terminal
from workers.cli.needs import needed
from workers.cli.times import moment_ms
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.backends.kafka import KafkaCorrections, ReadRecord, TopicState
    from workers.retag.page import Sample
    from workers.retag.reading import Choice, Found
    from workers.retag.report import PlanReport, Prices
    from workers.retag.today import Today
    from workers.settings import Settings
    from workers.types import Partition


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
        str | None, typer.Option(help="What an image costs: a file of `tagstream bench -o`, or as `tagstream capacity`.")
    ] = None,
    device_price: Annotated[float | None, typer.Option(min=0, help="Of an hour of that device.")] = None,
    gigabyte_price: Annotated[float | None, typer.Option(min=0, help="Of a gigabyte fetched from the store.")] = None,
    sample: Annotated[int, typer.Option(min=1, max=10_000, help="Outcomes on the page.")] = 200,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write a page of a sample, before and after.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Bring outcomes up to today's settings, mostly from the scores that they carry.

    The plan reads the enriched topic and compares the newest outcome of each subject with what the settings would give
    now: models, labels, thresholds, profiles and corrections. It publishes nothing, reads no image and loads no model.

    [dim]What would change:[/]  tagstream retag --plan -o plan.jsonl

    [dim]To look at some:[/]    tagstream retag --plan -o plan.jsonl --page sample.html
    """
    if not plan or output is None:
        raise Misconfigured("say what to do: tagstream retag --plan -o PLAN")
    from workers.retag.judging import CHANGES, NEEDS, STAYS
    from workers.retag.reading import Choice

    known = (*NEEDS, *STAYS, *CHANGES)
    for each in reason or ():
        if each not in known:
            raise Misconfigured(f"--reason {each}: there is no such reason. There are: {', '.join(known)}")
    choice = Choice(
        prefix=prefix,
        tagger=tagger.lower(),
        tags=frozenset(tag or ()),
        since_ms=None if since is None else moment_ms(since),
        reasons=frozenset(reason or ()),
    )
    planning = Planning(needed("kafka_servers"), output, choice, _prices(profile, device_price, gigabyte_price))
    report = planning.run(page, sample)
    if as_json:
        typer.echo(terminal.as_json({**report.as_json(), "plan": str(output), "digest": planning.digest}, indent=2))
    else:
        for line in report.lines():
            terminal.say(line)
        terminal.say(f"{output}: nothing has been changed yet")


def today_of(settings: Settings) -> Today:
    """What the settings give, by their bundles' files.

    Raises:
        Misconfigured: a bundle, or a file of labels or profiles, can't be used.
    """
    from workers.cli.needs import opened
    from workers.cli.profiles import allowed_names, profiles
    from workers.models.bundle import require_pinned
    from workers.models.template import TemplateCaptioner
    from workers.retag.today import Today, UnloadedModel
    from workers.settings import variable

    models: dict[str, UnloadedModel] = {}
    for use, (name, digest) in settings.bundles().items():
        bundle = opened(name)
        require_pinned(bundle, digest, variable(use))
        models[use] = UnloadedModel(bundle, allowed_names(settings) if use == "tagger" else None)
    tagger = models.get("tagger")
    template = TemplateCaptioner() if settings.captioner == "template" else None
    return Today(tagger, models.get("captioner"), template, profiles(settings, tagger), want_of(settings))
