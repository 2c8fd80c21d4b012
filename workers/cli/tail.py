"""`tagstream tail`: what comes out, as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from workers.cli import screen

if TYPE_CHECKING:
    from workers.backends.kafka import ReadRecord
    from workers.settings import Settings

SHOWN_TAGS = 4


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
    from workers.settings import read

    settings = read(os.environ).require("kafka_servers")
    records = _records(settings, start or not follow, follow, limit)
    with screen.reader_may_leave():
        (_print_json if as_json else _print_rows)(records)


def _print_json(records: Iterator[ReadRecord]) -> None:
    for record in records:
        typer.echo(json.dumps(document(record), ensure_ascii=False, separators=(",", ":")))


def _print_rows(records: Iterator[ReadRecord]) -> None:
    console = screen.console()
    console.print(_row("what", "picture", "tags", "caption", style="dim"))
    for record in records:
        console.print(row_of(document(record)))


def _records(settings: Settings, start: bool, follow: bool, limit: int | None) -> Iterator[ReadRecord]:
    from workers.backends.kafka import tail as read_topics
    from workers.cli.neighbours import output_topics, security, servers

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


def document(record: ReadRecord) -> dict[str, Any]:
    """What was published; a dead letter as its headers say it. What is neither is shown by its place."""
    from schemas.dead_letter import read_dead_letter_headers

    try:
        return {"schema": "dead-letter/1"} | read_dead_letter_headers(record.headers).model_dump(mode="json")
    except ValueError:
        pass
    try:
        found = json.loads(record.value or b"")
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"schema": None, "topic": record.topic, "partition": record.partition, "offset": record.offset}


def row_of(found: dict[str, Any]) -> Table:
    """One line for a person."""
    match found.get("schema"):
        case "enriched-image/1":
            tags = ", ".join(f"{tag['name']} {tag['score']:.2f}" for tag in found["tags"][:SHOWN_TAGS])
            caption = (found["caption"] or {}).get("text", "")
            return _row(found["status"], found["subject"], tags, caption, style="")
        case "image-retraction/1":
            return _row("removed", found["subject"], "", "", style="yellow")
        case "skipped/1":
            return _row("skipped", found["subject"] or _place(found["event"]), "", found["reason"], style="dim")
        case "dead-letter/1":
            reasons = ", ".join(dict.fromkeys(failure["reason"] for failure in found["failures"]))
            return _row("dead", _place(found), reasons, found["failures"][0]["detail"], style="red")
    return _row("unknown", _place(found), "", "", style="red")


def _place(found: dict[str, Any]) -> str:
    return f"{found['topic']}:{found['partition']}:{found['offset']}"


def _row(what: str, picture: str, tags: str, caption: str, *, style: str) -> Table:
    """A table of one row: a growing one could only be drawn at the end."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=8, style=style)
    table.add_column(ratio=3, style=style, overflow="ellipsis", no_wrap=True)
    table.add_column(ratio=4, style=style, overflow="ellipsis", no_wrap=True)
    table.add_column(ratio=4, style=style, overflow="ellipsis", no_wrap=True)
    table.add_row(*(text.replace("[", r"\[") for text in (what, picture, tags, caption)))
    return table
