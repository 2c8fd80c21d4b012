"""`tagstream tail`: shows outcomes as they are committed."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.dead_letters import known
from workers.cli.terminal import moment_ms
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.cli.outcomes import Outcome
    from workers.settings import Settings


def tail(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document a line, as published; `_record` is its place.")
    ] = False,
    start: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with existing outcomes. Default: new ones only.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Begin at this time: 2026-01-31, 2026-01-31T08:00Z, or 90s, 10m, 12h, 7d ago."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Only of images whose bucket/key matches, such as 'photos/2024/*'."),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only enriched, partial, retraction, skip, dead-letter, tombstone or unknown; may be repeated.",
        ),
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="Print whole texts and each record's topic:partition:offset.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow",
            help="Wait for more at the end; or read what is there, and print it in order of time.",
        ),
    ] = True,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N outcomes.")] = None,
) -> None:
    """Watch enriched images, retractions, skips and dead letters as they are committed.

    [dim]Everything so far, for jq:[/]  tagstream tail --json --from-beginning --no-follow | jq .tags
    [dim]What went wrong of late:[/]    tagstream tail --since 10m --kind dead-letter --wide
    [dim]What became of an image:[/]    tagstream tail --from-beginning --key photos/2026/cat.jpg
    """
    from workers.cli.outcomes import KINDS, header

    if start and since is not None:
        raise Misconfigured("--from-beginning and --since both say where to begin: keep one")
    since_ms = None if since is None else moment_ms(since)
    wanted = known("--kind", kinds, KINDS) or frozenset(KINDS)
    settings = needed("kafka_servers")
    outcomes = (
        outcome
        for outcome in _outcomes(settings, start or not follow, since_ms, follow)
        if outcome.kind in wanted and (key is None or fnmatchcase(outcome.key, key))
    )
    if not as_json:
        terminal.console().print(header(wide=wide))
    lines = _lines(outcomes, as_json, wide)
    for _, line in islice(lines if follow else _in_order_of_time(lines), limit):
        typer.echo(line, nl=as_json, color=True)


def _lines(outcomes: Iterator[Outcome], as_json: bool, wide: bool) -> Iterator[tuple[int, str]]:
    console = terminal.console()
    for outcome in outcomes:
        if as_json:
            line = outcome.json_line()
        else:
            with console.capture() as captured:
                console.print(outcome.wide() if wide else outcome.row())
            line = captured.get()
        yield outcome.record.timestamp_ms, line


def _in_order_of_time(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines by time; lines of one moment keep their order. A temporary file bounds the memory."""
    from workers.tables import SortedRows

    with SortedRows("at INT, line TEXT", "at, rowid") as found:
        for line in lines:
            found.add(line)
        yield from found.sorted()


def _outcomes(settings: Settings, start: bool, since_ms: int | None, follow: bool) -> Iterator[Outcome]:
    from workers.assembly.clients import output_topics, security, servers
    from workers.backends.kafka import tail as read_topics
    from workers.cli.outcomes import Outcome

    reading = read_topics(
        servers(settings),
        output_topics(settings),
        start="beginning" if start else "end",
        since_ms=since_ms,
        follow=follow,
        security=security(settings),
    )
    with reading:
        yield from map(Outcome.of, reading)
