"""How `tagstream tail` shows what it reads: one line for a person, or one JSON document."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json
from rich.table import Table

from schemas.dead_letter import PREFIX, DeadLetter, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, EventRef, Retraction, Skip, read_output
from schemas.text import first_fault
from workers.backends.kafka_types import ReadRecord
from workers.cli import terminal

SHOWN_TAGS = 4


def document(record: ReadRecord) -> dict[str, Any]:
    """What was published; a dead letter as its headers say it. Of what is neither: where it stands, and why."""
    match _read(record):
        case str(why):
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            return {"schema": None, **place, "passed_over": why}
        case DeadLetter() as dead_letter:
            return {"schema": "dead-letter/1"} | dead_letter.model_dump(mode="json")
        case _:
            published: dict[str, Any] = from_json(record.value or b"")
            return published  # and not as it was read: a later version may have more fields


def row_of(record: ReadRecord) -> Table:
    """One line for a person."""
    match _read(record):
        case EnrichedImage() as image:
            tags = ", ".join(f"{tag.name} {tag.score:.2f}" for tag in image.tags[:SHOWN_TAGS])
            return row(image.status, image.subject, tags, image.caption.text if image.caption else "", style="")
        case Retraction() as retraction:
            return row("removed", retraction.subject, "", "", style="yellow")
        case Skip() as skip:
            return row("skipped", skip.subject or _place(skip.event), "", skip.reason, style="dim")
        case DeadLetter() as dead_letter:
            reasons = ", ".join(dict.fromkeys(failure.reason for failure in dead_letter.failures))
            return row("dead", _place(dead_letter), reasons, dead_letter.failures[0].detail, style="red")
        case str(why):
            return row("unknown", _place(record), "", why, style="red")


def _read(record: ReadRecord) -> EnrichedImage | Retraction | Skip | DeadLetter | str:
    """What of ours a record is, or else why it is none: any producer may write to a topic."""
    try:
        if any(name == f"{PREFIX}schema" for name, _ in record.headers):
            return read_dead_letter_headers(record.headers)
        return read_output(record.value or b"")
    except ValueError as error:
        return f"passed over: {first_fault(error)}"


def _place(found: EventRef | DeadLetter | ReadRecord) -> str:
    return f"{found.topic}:{found.partition}:{found.offset}"


def row(what: str, image: str, tags: str, caption: str, *, style: str) -> Table:
    """A table of one row: a growing one could only be drawn at the end."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=8, style=style)
    table.add_column(ratio=3, style=style, overflow="ellipsis", no_wrap=True)
    table.add_column(ratio=4, style=style, overflow="ellipsis", no_wrap=True)
    table.add_column(ratio=4, style=style, overflow="ellipsis", no_wrap=True)
    table.add_row(*map(terminal.text, (what, image, tags, caption)))
    return table
