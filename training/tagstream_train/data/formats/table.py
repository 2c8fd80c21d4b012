"""CSV and TSV tables: one row an image, or a tag.

    image,tags,caption           dog.jpg,animal|dog,"a dog on grass"
    image,dog,cat,grass          dog.jpg,1,0,        (1 has it, 0 has it not, empty or -1 is not known)

The first shape's columns may be called otherwise (`IMAGE`, `TAGS`, `CAPTION`, `ABSENT`), and what is between tags may
be `|`, `;` or `,`. Both shapes may have a column `split`. OpenImages' image-labels have a column `Confidence`: 1 is
verified present and 0 verified absent. A fraction, or the `Source` machine, is a model's guess and verifies nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tagstream_train.data.formats.source import PARTS, Found, Names, Request, Source, finder, lines, relative
from tagstream_train.data.samples import Part
from workers.errors import Misconfigured

IMAGE = ("image", "image_path", "path", "file", "filename", "file_name", "filepath", "img", "image_id", "imageid")
TAGS = ("tags", "tag", "labels", "label", "classes", "class", "category", "categories", "labelname")
CAPTION = ("caption", "captions", "text", "description")
ABSENT = ("absent", "absent_tags", "negative", "negatives")
SPLIT = ("split", "subset")
CONFIDENCE = ("confidence",)
SOURCE = ("source",)

_SEPARATORS = ("|", ";", ",")
_KNOWN = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": None, "-1": None}


class _Row(NamedTuple):
    where: str
    cells: list[str]


class _Columns(NamedTuple):
    """Column numbers by content; `labels`: columns named after a label."""

    image: int
    tags: int | None
    caption: int | None
    absent: int | None
    split: int | None
    group: int | None
    confidence: int | None
    source: int | None
    labels: list[int]


def read(request: Request) -> Source:
    header, columns = _header(request.path, request.groups)
    names = Names(request.labels, _names(request.path, header, columns))
    first = (row.cells[columns.image] for row in _rows(request.path, header))
    root = request.root(first)
    find = finder(root)
    used = {*columns[:-1], *columns.labels}
    ignored = [name for number, name in enumerate(header) if number not in used]
    notes = [f"columns that are not read: {', '.join(ignored)[:500]}"] if ignored else []

    def items() -> Iterator[Found]:
        guesses = 0
        for row in _rows(request.path, header):
            guesses += _sure(row, columns) is None
            yield _found(row, header, columns, names, root, find)
        if guesses:
            what = f"{guesses:,} rows are a model's guesses (a confidence between 0 and 1)"
            notes.append(f"{what}: their labels are taken as unknown")

    return Source("csv", root, names.labels, items(), notes)


def _found(
    row: _Row, header: Sequence[str], columns: _Columns, names: Names, root: Path, find: Callable[[str], str | None]
) -> Found:
    name = relative(root, row.cells[columns.image].strip())
    if not name:
        raise Misconfigured(f"{row.where}: no image is named.")
    image = name if "://" in name else find(name) or name
    caption = row.cells[columns.caption].strip() if columns.caption is not None else ""
    captions = (caption,) if caption else ()
    part = _part(row, columns)
    group = None if columns.group is None else row.cells[columns.group].strip() or None
    if columns.labels:
        known = {header[number]: _known(row, number) for number in columns.labels}
        has = names.ids((name for name, value in known.items() if value), row.where)
        lacks = names.ids((name for name, value in known.items() if value is False), row.where)
        return Found(image, has, captions, absent=lacks, part=part, group=group)
    named = names.ids(_cell(row, columns.tags), row.where)
    if columns.absent is None and columns.confidence is None:
        return Found(image, named, captions, part=part, group=group)
    sure = _sure(row, columns)
    lacks = tuple(sorted({*names.ids(_cell(row, columns.absent), row.where), *(named if sure is False else ())}))
    return Found(image, named if sure else (), captions, absent=lacks, part=part, group=group)


def _names(path: Path, header: Sequence[str], columns: _Columns) -> Iterator[str]:
    """Labels that come up."""
    if columns.labels:
        yield from (header[number] for number in columns.labels)
        return
    for row in _rows(path, header):
        yield from _cell(row, columns.tags)
        yield from _cell(row, columns.absent)


def _cell(row: _Row, column: int | None) -> list[str]:
    """The tags in a cell."""
    content = "" if column is None else row.cells[column]
    separator = next((each for each in _SEPARATORS if each in content), None)
    return [name for each in (content.split(separator) if separator else [content]) if (name := each.strip())]


def _known(row: _Row, column: int) -> bool | None:
    content = row.cells[column].strip().lower()
    if content not in _KNOWN:
        raise Misconfigured(f"{row.where}: {content[:50]!r} stands under a label, where 1, 0, -1 or nothing belongs.")
    return _KNOWN[content]


def _sure(row: _Row, columns: _Columns) -> bool | None:
    """Whether the row's tags are there; None: not known."""
    if columns.confidence is None:
        return True
    content = row.cells[columns.confidence].strip()
    try:
        confidence = float(content)
    except ValueError:
        confidence = -1
    if not 0 <= confidence <= 1:
        raise Misconfigured(f"{row.where}: the confidence {content[:50]!r} is no number from 0 to 1.")
    guessed = columns.source is not None and row.cells[columns.source].strip().lower() == "machine"
    return None if guessed or 0 < confidence < 1 else confidence == 1


def _part(row: _Row, columns: _Columns) -> Part | None:
    content = "" if columns.split is None else row.cells[columns.split].strip().lower()
    if content and content not in PARTS:
        raise Misconfigured(f"{row.where}: the part {content[:50]!r} is not one of train, val, test.")
    return PARTS.get(content)


def _header(path: Path, groups: str | None) -> tuple[list[str], _Columns]:
    header = next((row.cells for row in _rows(path)), None)
    if not header:
        raise Misconfigured(f"{path} is empty.")
    header = [name.strip() for name in header]
    places = {re.sub(r"\W", "_", name.lower()): number for number, name in reversed(list(enumerate(header)))}
    image = _column(places, IMAGE)
    if image is None:
        raise Misconfigured(
            f"{path}, line 1: none of its columns ({', '.join(header)[:200]}) holds images: call one `image`, "
            "and one `tags` or one after each label."
        )
    tags, caption, absent, part = (_column(places, words) for words in (TAGS, CAPTION, ABSENT, SPLIT))
    confidence = None if tags is None else _column(places, CONFIDENCE)
    source = None if confidence is None else _column(places, SOURCE)
    group = None if groups is None else places.get(re.sub(r"\W", "_", groups.strip().lower()))
    if groups is not None and group is None:
        raise Misconfigured(f"{path} has no column {groups[:200]!r} of groups; it has {', '.join(header)[:500]}.")
    others = [number for number in range(len(header)) if number not in (image, caption, part, group)]
    labels = others if tags is None and absent is None else []
    return header, _Columns(image, tags, caption, absent, part, group, confidence, source, labels)


def _column(places: dict[str, int], words: Sequence[str]) -> int | None:
    return next((places[word] for word in words if word in places), None)


def _rows(path: Path, header: Sequence[str] | None = None) -> Iterator[_Row]:
    """Rows below the header, or all rows; empty lines don't count."""
    text = (f"{line}\n" for _, line in lines(path))
    first = next(text, "")
    delimiter = max(",\t;", key=first.count)
    reader = csv.reader(_after(first, text), delimiter=delimiter, strict=True)
    try:
        for number, cells in enumerate(row for row in reader if row):
            where = f"{path}, line {reader.line_num}"
            if header is not None and len(cells) != len(header):
                raise Misconfigured(f"{where}: {len(cells)} cells under {len(header)} columns.")
            if header is None or number:
                yield _Row(where, cells)
    except csv.Error as error:
        raise Misconfigured(f"{path}, line {reader.line_num}: {error}.") from None


def _after(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
