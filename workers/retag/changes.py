"""The file of changes, for people: written by `retag plan` and `compare`, shown by the search page.

Its first line is a head. Each further line is a JSON object for an image with other tags or another caption, the most
changed image first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.retag.plan_file import Planned
from workers.tables import SortedRows

if TYPE_CHECKING:
    from workers.retag.remake import New

SCHEMA: Final = "tagstream-changes/1"
_LINE_BYTES: Final = 1 << 20


class ChangesHead(BaseModel):
    """The first line.

    Args:
        before, after: names of the two sides, for people.
        images: number of compared images.
        unknown: number of further images, which would have to be tagged again.
        lines: number of changed images.
    """

    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["tagstream-changes/1"] = Field(default=SCHEMA, alias="schema")
    made_at: str
    before: str
    after: str
    images: int = Field(ge=0)
    unknown: int = Field(ge=0)
    lines: int = Field(ge=0)


class Changed(BaseModel):
    """A changed image, with names of tags; `captions`: before and after, if they differ."""

    model_config = ConfigDict(frozen=True)

    subject: str
    kept: Sequence[str]
    lost: Sequence[str]
    gained: Sequence[str]
    captions: tuple[str | None, str | None] | None = None

    @classmethod
    def between(cls, subject: str, before: Sequence[str], after: Sequence[str], **others: Any) -> Self:
        was, will = set(before), set(after)
        return cls(
            subject=subject,
            kept=[name for name in before if name in will],
            lost=[name for name in before if name not in will],
            gained=[name for name in after if name not in was],
            **others,
        )


class ChangesWriter(SortedRows):
    """Takes images in any order, and writes the file of changes. Use it in a `with`."""

    def __init__(self) -> None:
        super().__init__("changes INT, line BLOB", "changes DESC, line")

    def take(self, changed: Changed) -> None:
        """Keep an image if it changes."""
        count = len(changed.lost) + len(changed.gained)
        if count or changed.captions:
            self.add((count, changed.model_dump_json(exclude_none=True).encode()))

    def write(self, path: Path, *, before: str, after: str, images: int, unknown: int = 0) -> None:
        """Write the file as a whole or not at all.

        Raises:
            Misconfigured: it can't be written.
        """
        self._store()
        head = ChangesHead(
            made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            before=before,
            after=after,
            images=images,
            unknown=unknown,
            lines=self.count,
        )
        with whole_file(path) as file:
            file.write(head.model_dump_json().encode() + b"\n")
            file.writelines(line + b"\n" for _, line in self.sorted())


class PlannedChanges:
    """Takes new events, and keeps those of the planned records."""

    def __init__(self, writer: ChangesWriter) -> None:
        self._writer = writer
        self._taken = SortedRows("place INT, at INT, changed", "place, at")

    def take(self, place: tuple[int, int], new: New) -> None:
        """Keep a new event, with its record's partition and offset."""
        old = new.outcome.fields
        before, after = ([tag["name"] for tag in fields["tags"]] for fields in (old, new.parts))
        captions = tuple((fields.get("caption") or {}).get("text") for fields in (old, new.parts))
        differ = captions if len({*captions}) > 1 else None
        changed = Changed.between(old["subject"], before, after, captions=differ)
        self._taken.add((*place, changed.model_dump_json()))

    def seen(self, planned: Iterable[Planned]) -> Iterator[Planned]:
        """Pass on the planned records, in order of partition and offset."""
        with self._taken:
            rows = self._taken.sorted()
            row = next(rows, None)
            for each in planned:
                while row is not None and row[:2] < each[:2]:
                    row = next(rows, None)
                if row is not None and row[:2] == each[:2]:
                    self._writer.take(Changed.model_validate_json(row[2]))
                yield each


def read_changes(path: Path) -> tuple[ChangesHead, Iterator[tuple[bytes, Changed]]]:
    """Read a file of changes: its head, and each line with its content.

    Raises:
        Misconfigured: the file can't be read, is of another kind, or is damaged in this line.
    """
    lines = _lines(path)
    try:
        head = ChangesHead.model_validate_json(next(lines, b""))
    except ValidationError:
        raise Misconfigured(
            f"{path} is no file of changes: `tagstream retag plan` and `tagstream compare` write one with --changes"
        ) from None
    return head, _changed(path, head, lines)


def _changed(path: Path, head: ChangesHead, lines: Iterable[bytes]) -> Iterator[tuple[bytes, Changed]]:
    number = 1
    for number, line in enumerate(lines, 2):
        try:
            yield line, Changed.model_validate_json(line)
        except ValidationError as error:
            raise Misconfigured(f"{path}, line {number}: damaged: {first_fault(error)}. Write it again") from None
    if number != head.lines + 1:
        raise Misconfigured(f"{path}: damaged: {head.lines:,} images change, and it has {number - 1:,}. Write it again")


def _lines(path: Path) -> Iterator[bytes]:
    """Lines; a line that is too long is cut, and so fails as damaged."""
    try:
        with path.open("rb") as file:
            yield from iter(lambda: file.readline(_LINE_BYTES), b"")
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}") from error
