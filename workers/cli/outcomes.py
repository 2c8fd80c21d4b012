"""The outcomes that `tagstream tail` shows, as rows or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from pydantic_core import from_json
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from schemas.dead_letter import DeadLetter, is_dead_letter, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from schemas.text import first_fault
from workers.cli import terminal
from workers.types import OUTCOME_KINDS, OutcomeKind, ReadRecord

SHOWN_TAGS = 4
_LOOKED_AT = 1_000
"""Characters of a cell in a row, which no terminal shows whole: to cut a megabyte where one ends takes seconds."""
PLACE = "_record"
"""The field of a JSON line that no published document has: where the record stands, and its time."""

Kind: TypeAlias = OutcomeKind | Literal["tombstone", "unknown"]
KINDS: tuple[Kind, ...] = (*OUTCOME_KINDS, "tombstone", "unknown")
_WIDEST = max(map(len, KINDS))


class Shown(NamedTuple):
    """The cells of an outcome's row; `what` is its kind."""

    what: str
    image: str
    tags: str
    caption: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record of an output topic, or why it is foreign. `told` None: a tombstone."""

    record: ReadRecord
    told: EnrichedImage | Retraction | Skip | DeadLetter | str | None

    @classmethod
    def of(cls, record: ReadRecord) -> Self:
        try:
            if is_dead_letter(record.headers):
                return cls(record, read_dead_letter_headers(record.headers))
            return cls(record, None if record.value is None else read_output(record.value))
        except ValueError as error:
            return cls(record, f"passed over: {first_fault(error)}")

    @property
    def kind(self) -> Kind:
        match self.told:
            case EnrichedImage():
                return "enriched" if self.told.status == "complete" else "partial"
            case Retraction():
                return "retraction"
            case Skip():
                return "skip"
            case DeadLetter():
                return "dead-letter"
            case None:
                return "tombstone"
            case str():
                return "unknown"

    @property
    def key(self) -> str:
        """The image's `bucket/key`, or else the record's key."""
        subject = self.told.subject if isinstance(self.told, EnrichedImage | Retraction | Skip) else None
        return subject or (self.record.key or b"").decode("utf-8", "replace")

    def document(self) -> dict[str, Any]:
        """The published document, a dead letter's headers, or a foreign record's place."""
        match self.told:
            case None:
                return {"schema": None, **self._coordinates, "tombstone": self.key}
            case str(why):
                return {"schema": None, **self._coordinates, "passed_over": why}
            case DeadLetter() as dead_letter:
                return {"schema": "dead-letter/1"} | dead_letter.model_dump(mode="json")
            case _:
                published: dict[str, Any] = from_json(self.record.value or b"")
                return published  # not the read document: a later version may have more fields

    def json_line(self) -> str:
        """The document with its record's place, as one line."""
        place = self._coordinates | {"timestamp_ms": self.record.timestamp_ms}
        return terminal.as_json(self.document() | {PLACE: place})

    @property
    def _coordinates(self) -> dict[str, Any]:
        return {"topic": self.record.topic, "partition": self.record.partition, "offset": self.record.offset}

    def row(self) -> Table:
        """One line, cut at the terminal's width."""
        return row(terminal.moment(self.record.timestamp_ms), self._shown(SHOWN_TAGS))

    def wide(self) -> Text:
        """One whole line, with the record's place."""
        return wide_row(terminal.moment(self.record.timestamp_ms), self.record.place, self._shown(None))

    def _shown(self, most: int | None) -> Shown:
        what = self.kind
        match self.told:
            case EnrichedImage() as image:
                caption = image.caption.text if image.caption else ""
                tags = ", ".join(f"{tag.name} {tag.score:.2f}" for tag in image.tags[:most])
                return Shown(what, image.subject, tags, caption)
            case Retraction() as retraction:
                return Shown(what, retraction.subject, "", "", "yellow")
            case Skip() as skip:
                record = f"{skip.event.topic}:{skip.event.partition}:{skip.event.offset}"
                return Shown(what, skip.subject or record, "", skip.reason, "dim")
            case DeadLetter() as dead_letter:
                reasons = ", ".join(dict.fromkeys(failure.reason for failure in dead_letter.failures))
                place, detail = dead_letter.place, dead_letter.failures[0].detail
                return Shown(what, self.key or place, reasons, detail if most else f"{place}: {detail}", "red")
            case None:
                return Shown(what, self.key, "", "", "dim")
            case str(why):
                return Shown(what, self.record.place, "", why, "red")


def row(when: str, shown: Shown) -> Table:
    """A table of one row, which can be printed at once."""
    *cells, style = shown
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=len("2026-01-31 08:00:00"), style="dim", no_wrap=True)
    table.add_column(width=_WIDEST, style=style)
    for ratio in (3, 4, 4):
        table.add_column(ratio=ratio, style=style, overflow="ellipsis", no_wrap=True)
    table.add_row(*(terminal.text(cell[:_LOOKED_AT]) for cell in (when, *cells)))
    return table


def wide_row(when: str, place: str, shown: Shown) -> Text:
    """One whole line; columns of common width are aligned."""
    *cells, style = (f"{when:19}", f"{place:28}", f"{shown.what:{_WIDEST}}", *shown[1:])
    return Text("  ").join(terminal.text(cell, style) for cell in cells)


def header(*, wide: bool) -> RenderableType:
    """The heading of the rows."""
    names = Shown("what", "image", "tags", "caption", "dim")
    return wide_row("when", "record", names) if wide else row("when", names)
