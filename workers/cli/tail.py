"""`tagstream tail`: what comes out, as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli import terminal
from workers.cli.needs import needed

if TYPE_CHECKING:
    from workers.backends.kafka import ReadRecord
    from workers.settings import Settings


def tail(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, as published.")] = False,
    start: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with what is there; else with what comes.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more at the end.")] = True,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after so many.")] = None,
) -> None:
    """Watch enriched images, retractions, skips and dead letters as they are committed.

    [dim]Everything so far, for jq:[/]  tagstream tail --json --from-beginning --no-follow | jq .tags
    """

    settings = needed("kafka_servers")
    records = _records(settings, start or not follow, follow, limit)
    with terminal.reader_may_leave():
        (_print_json if as_json else _print_rows)(records)


def _print_json(records: Iterator[ReadRecord]) -> None:
    from workers.cli.outcomes import document

    for record in records:
        typer.echo(terminal.as_json(document(record)))


def _print_rows(records: Iterator[ReadRecord]) -> None:
    from workers.cli.outcomes import row, row_of

    console = terminal.console()
    console.print(row("what", "image", "tags", "caption", style="dim"))
    for record in records:
        console.print(row_of(record))


def _records(settings: Settings, start: bool, follow: bool, limit: int | None) -> Iterator[ReadRecord]:
    from workers.backends.kafka import tail as read_topics
    from workers.cli.clients import output_topics, security, servers

    reading = read_topics(
        servers(settings),
        output_topics(settings),
        start="beginning" if start else "end",
        follow=follow,
        security=security(settings),
    )
    with reading:
        for number, record in enumerate(reading, 1):
            yield record
            if number == limit:
                return
