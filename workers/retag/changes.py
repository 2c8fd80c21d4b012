"""The file of changes, for people: written by `retag plan` and `compare`, shown by the search page.

Its first line is a head. Each further line is a JSON object for an image with other tags or another caption, the most
changed image first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from schemas.printable import counted
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.pipeline.profiles import default_profiles
from workers.retag.line_files import read_lines
from workers.retag.plan_file import Planned
from workers.tables import SortedRows
from workers.types import LabelScores

if TYPE_CHECKING:
    from workers.retag.current import CurrentSettings
    from workers.retag.remake import New

SCHEMA: Final = "tagstream-changes/1"
_LINE_BYTES: Final = 1 << 20
_NUMBERED: Final = 20
"""Labels of a list that have numbers: those that a page shows."""
_Unit: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class ChangesHead(BaseModel):
    """The first line.

    Args:
        before, after: names of the two sides, for people.
        images: number of compared images.
        unknown: number of further images, which would have to be tagged again.
        lines: number of changed images.
        plan: digest of the plan; empty: there is none.
    """

    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["tagstream-changes/1"] = Field(default=SCHEMA, alias="schema")
    made_at: str
    before: str
    after: str
    images: int = Field(ge=0)
    unknown: int = Field(ge=0)
    lines: int = Field(ge=0)
    plan: str = ""

    @property
    def name(self) -> str:
        """What choices name: the plan's digest, else a digest of this line."""
        return self.plan or hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class LabelNumbers(NamedTuple):
    """A label's scores and thresholds before and after; None: unknown."""

    score: _Unit | None = None
    new_score: _Unit | None = None
    threshold: _Unit | None = None
    new_threshold: _Unit | None = None


class Changed(BaseModel):
    """A changed image, with names of tags.

    Args:
        captions: before and after, if they differ.
        sha256: of its content; None: unknown.
        numbers: of the first labels in each list.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    subject: str
    kept: Sequence[str]
    lost: Sequence[str]
    gained: Sequence[str]
    captions: tuple[str | None, str | None] | None = None
    sha256: str | None = None
    numbers: Mapping[str, LabelNumbers] = Field(default={}, max_length=3 * _NUMBERED)

    @classmethod
    def between(
        cls,
        subject: str,
        before: Sequence[str],
        after: Sequence[str],
        numbers: Callable[[str], LabelNumbers | None] = lambda _: None,
        **others: Any,
    ) -> Self:
        """
        Args:
            numbers: tells those of a label; None: unknown.
        """
        was, will = set(before), set(after)
        kept, lost = [name for name in before if name in will], [name for name in before if name not in will]
        gained = [name for name in after if name not in was]
        shown = chain.from_iterable(names[:_NUMBERED] for names in (kept, lost, gained))
        known = {name: found for name in shown if (found := numbers(name)) is not None}
        return cls(subject=subject, kept=kept, lost=lost, gained=gained, numbers=known, **others)


class ChangesWriter(SortedRows):
    """Takes images in any order, and writes the file of changes. Use it in a `with`."""

    def __init__(self) -> None:
        super().__init__("changes INT, line BLOB", "changes DESC, line")

    def take(self, changed: Changed) -> None:
        """Keep an image if it changes."""
        count = len(changed.lost) + len(changed.gained)
        if count or changed.captions:
            self.add((count, changed.model_dump_json(exclude_none=True).encode()))

    def write(self, path: Path, *, before: str, after: str, images: int, unknown: int = 0, plan: str = "") -> None:
        """Write the file as a whole or not at all; takes what a `ChangesHead` has.

        Raises Misconfigured: it can't be written.
        """
        self._store()
        head = ChangesHead(
            made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            before=before,
            after=after,
            images=images,
            unknown=unknown,
            lines=self.count,
            plan=plan,
        )
        with whole_file(path) as file:
            file.write(head.model_dump_json().encode() + b"\n")
            file.writelines(line + b"\n" for _, line in self.sorted())


class Numbering:
    """Finds the numbers of labels; knows the current and the tagger's own thresholds."""

    def __init__(self, settings: CurrentSettings) -> None:
        self._profiles, tagger = settings.profiles, settings.tagger
        self._tagger = None if tagger is None else tagger.digest
        self._ids = {} if tagger is None else {name: number for number, name in enumerate(tagger.labels)}
        own = default_profiles(tagger).values()
        self._by_digest = {profile.digest: profile for profile in (*own, *settings.profiles.values())}

    def of(self, new: New) -> Callable[[str], LabelNumbers | None]:
        """Tells the numbers of an image's labels; None: a person's word counts, or the tagger lacks the label."""
        old, said = new.outcome.fields, new.parts.get("corrections") or {}
        words = {*said.get("added", ()), *said.get("removed", ())}
        same = old["models"]["tagger"] is not None and old["models"]["tagger"]["digest"] == self._tagger
        earlier = self._by_digest.get(old["thresholds"]["digest"]) if same else None
        profile = self._profiles[old["thresholds"]["profile"]]
        shown = {tag["name"]: tag["score"] for tag in old["tags"] if tag.get("source") is None}

        def numbers(name: str) -> LabelNumbers | None:
            label = self._ids.get(name)
            if label is None or name in words:
                return None
            after = _score(new.scores, label)
            before, limit = shown.get(name, after if same else None), profile.thresholds[label]
            past = None if earlier is None else _rounded(earlier.thresholds[label])
            return LabelNumbers(_rounded(before), after, past, _rounded(limit))

        return numbers


def _score(scores: LabelScores | None, label: int) -> float | None:
    """A label's score; None below the floor."""
    if scores is None:
        return None
    at = int(scores.label_ids.searchsorted(label))
    return _rounded(scores.scores[at]) if at < len(scores.label_ids) and scores.label_ids[at] == label else None


def _rounded(number: Any) -> float | None:
    """To 4 decimals; None for what no score is: records are unchecked."""
    return round(float(number), 4) if isinstance(number, float | np.floating) and 0 <= number <= 1 else None


class PlannedChanges:
    """Takes new events, and keeps those of the planned records."""

    def __init__(self, writer: ChangesWriter, numbers: Numbering) -> None:
        self._writer = writer
        self._numbers = numbers
        self._taken = SortedRows("place INT, at INT, changed", "place, at")

    def take(self, place: tuple[int, int], new: New) -> None:
        """Keep a new event, with its record's partition and offset."""
        old = new.outcome.fields
        before, after = ([tag["name"] for tag in fields["tags"]] for fields in (old, new.parts))
        captions = tuple((fields.get("caption") or {}).get("text") for fields in (old, new.parts))
        differ = captions if len({*captions}) > 1 else None
        numbers, sha256 = self._numbers.of(new), old["source"]["sha256"]
        changed = Changed.between(old["subject"], before, after, numbers, captions=differ, sha256=sha256)
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


def read_changes(path: Path) -> tuple[ChangesHead, Iterator[Changed]]:
    """Read a file of changes: its head, and each further line.

    Raises Misconfigured: the file can't be read, is of another kind, or is damaged in this line.
    """
    otherwise = "is no file of changes: `tagstream retag plan` and `tagstream compare` write one with --changes"
    head, lines = read_lines(path, ChangesHead, Changed, _LINE_BYTES, otherwise)
    return head, _whole(path, head, lines)


def _whole(path: Path, head: ChangesHead, lines: Iterable[tuple[str, Changed]]) -> Iterator[Changed]:
    count = 0
    for _, changed in lines:
        count += 1
        yield changed
    if count != head.lines:
        change = counted(head.lines, "image changes", "images change")
        raise Misconfigured(f"{path}: damaged: {change}, and it has {count:,}. Write it again")
