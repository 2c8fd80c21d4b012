"""CSV and TSV tables: one row an image, or a tag.

    image,tags,caption           dog.jpg,animal|dog,"a dog on grass"
    image,dog,cat,grass          dog.jpg,1,0,        (1 has it, 0 has it not, empty or -1 is not known)

The first shape's columns can have other names (`IMAGE`, `TAGS`, `CAPTION`, `ABSENT`). Tags are separated by `|`, `;` or
`,`. Both shapes can have a column `split`. OpenImages' image-labels have a column `Confidence`: 1 is verified present,
0 verified absent. A fraction, or the `Source` machine, is a model's unverified guess.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tagstream_train.data.formats.source import PARTS, Found, Names, Request, Source, finder, lines, relative
from tagstream_train.data.samples import Part
from workers.errors import Misconfigured

_CALLED = {
    "image": "image image_path path file filename file_name filepath img image_id imageid",
    "tags": "tags tag labels label classes class category categories labelname",
    "caption": "caption captions text description",
    "absent": "absent absent_tags negative negatives",
    "split": "split subset",
    "confidence": "confidence",
    "source": "source",
}
"""Names of columns, by content."""
_SEPARATORS = ("|", ";", ",")
_KNOWN = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": None, "-1": None}


class _Row(NamedTuple):
    where: str
    cells: list[str]
    columns: Mapping[str, int]
    """Column numbers by content."""

    def of(self, what: str) -> str:
        return self.cells[self.columns[what]].strip() if what in self.columns else ""

    def tags(self, what: str) -> list[str]:
        content = self.of(what)
        separator = next((each for each in _SEPARATORS if each in content), None)
        return [name for each in (content.split(separator) if separator else [content]) if (name := each.strip())]


def read(request: Request) -> Source:
    header, columns = _header(request.path, request.groups)
    others = {number: name for number, name in enumerate(header) if number not in columns.values()}
    labels = {} if columns.keys() & {"tags", "absent"} else others
    rows = partial(_rows, request.path, header, columns)
    tagged = (tag for row in rows() for what in ("tags", "absent") for tag in row.tags(what))
    names = Names(request.labels, labels.values() or tagged)
    root = request.root(row.of("image") for row in rows())
    find = finder(root)
    notes = [] if labels or not others else [f"columns that are not read: {', '.join(others.values())[:500]}"]

    def items() -> Iterator[Found]:
        guesses = 0
        for row in rows():
            guesses += _sure(row) is None
            yield _found(row, labels, names, root, find)
        if guesses:
            what = f"{guesses:,} rows are a model's guesses (a confidence between 0 and 1)"
            notes.append(f"{what}: their labels are taken as unknown")

    return Source("csv", root, names.labels, items(), notes)


def _found(row: _Row, labels: Mapping[int, str], names: Names, root: Path, find: Callable[[str], str | None]) -> Found:
    name = relative(root, row.of("image"))
    if not name:
        raise Misconfigured(f"{row.where}: no image is named.")
    captions = tuple(filter(None, [row.of("caption")]))
    image = name if "://" in name else find(name) or name
    found = Found(image, captions=captions, part=_part(row), group=row.of("group") or None)
    if labels:
        known = {name: _known(row, number) for number, name in labels.items()}
        has, lacks = (names.ids((name for name in known if known[name] is value), row.where) for value in (True, False))
        return replace(found, tags=has, absent=lacks)
    named = names.ids(row.tags("tags"), row.where)
    if not row.columns.keys() & {"absent", "confidence"}:
        return replace(found, tags=named)
    sure = _sure(row)
    lacks = tuple(sorted({*names.ids(row.tags("absent"), row.where), *(named if sure is False else ())}))
    return replace(found, tags=named if sure else (), absent=lacks)


def _known(row: _Row, column: int) -> bool | None:
    content = row.cells[column].strip().lower()
    if content not in _KNOWN:
        raise Misconfigured(f"{row.where}: {content[:50]!r} stands under a label, where 1, 0, -1 or nothing belongs.")
    return _KNOWN[content]


def _sure(row: _Row) -> bool | None:
    """Whether the row's tags are present; None: unknown."""
    if "confidence" not in row.columns:
        return True
    content = row.of("confidence")
    try:
        confidence = float(content)
    except ValueError:
        confidence = -1
    if not 0 <= confidence <= 1:
        raise Misconfigured(f"{row.where}: the confidence {content[:50]!r} is no number from 0 to 1.")
    return None if row.of("source").lower() == "machine" or 0 < confidence < 1 else confidence == 1


def _part(row: _Row) -> Part | None:
    content = row.of("split").lower()
    if content and content not in PARTS:
        raise Misconfigured(f"{row.where}: the part {content[:50]!r} is not one of train, val, test.")
    return PARTS.get(content)


def _header(path: Path, groups: str | None) -> tuple[list[str], dict[str, int]]:
    """The columns' names, and their numbers by content."""
    header = next((row.cells for row in _rows(path)), None)
    if not header:
        raise Misconfigured(f"{path} is empty.")
    header = [name.strip() for name in header]
    places = {re.sub(r"\W", "_", name.lower()): number for number, name in reversed(list(enumerate(header)))}
    columns = {
        what: next(places[name] for name in called.split() if name in places)
        for what, called in _CALLED.items()
        if places.keys() & set(called.split())
    }
    if "image" not in columns:
        raise Misconfigured(
            f"{path}, line 1: none of its columns ({', '.join(header)[:200]}) holds images: call one `image`, "
            "and one `tags` or one after each label."
        )
    if "tags" not in columns:  # then these are names of labels
        columns.pop("confidence", None)
    if "confidence" not in columns:
        columns.pop("source", None)
    if groups is not None:
        group = places.get(re.sub(r"\W", "_", groups.strip().lower()))
        if group is None:
            raise Misconfigured(f"{path} has no column {groups[:200]!r} of groups; it has {', '.join(header)[:500]}.")
        columns["group"] = group
    return header, columns


def _rows(path: Path, header: Sequence[str] | None = None, columns: Mapping[str, int] | None = None) -> Iterator[_Row]:
    """Rows below the header, or all rows; empty lines don't count."""
    text = (f"{line}\n" for _, line in lines(path))
    first = next(text, "")
    reader = csv.reader(chain([first], text), delimiter=max(",\t;", key=first.count), strict=True)
    try:
        for number, cells in enumerate(row for row in reader if row):
            where = f"{path}, line {reader.line_num}"
            if header is not None and len(cells) != len(header):
                raise Misconfigured(f"{where}: {len(cells)} cells under {len(header)} columns.")
            if header is None or number:
                yield _Row(where, cells, columns or {})
    except csv.Error as error:
        raise Misconfigured(f"{path}, line {reader.line_num}: {error}.") from None
