"""Reads examples for calibration: `image,label,1|0`, one a line."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Final, NamedTuple

from workers.errors import Misconfigured, nearest
from workers.models.files import CONTROLS, text_of

_SHAPE: Final = "write image,label,1 (it shows the label) or image,label,0"


class Examples(NamedTuple):
    """Images, and what people say of them.

    Args:
        images: paths, or s3://bucket/key; each once.
        marks: by label id, whether each image (by its number) shows the label.
    """

    images: Sequence[str]
    marks: Mapping[int, Mapping[int, bool]]


def read_examples(path: Path, labels: Sequence[str]) -> Examples:
    """Read a CSV file in UTF-8; a first line `image,label,…` is passed over.

    Raises:
        Misconfigured: it can't be read, or a line is no example, names an unknown label, or says something twice.
    """
    ids = {name: number for number, name in reversed(list(enumerate(labels)))}
    images: dict[str, int] = {}
    marks: dict[int, dict[int, bool]] = {}
    rows = csv.reader(StringIO(text_of(path)), strict=True)
    try:
        for row in rows:
            if not row or (rows.line_num == 1 and row[:2] == ["image", "label"]):
                continue
            at = f"{path}, line {rows.line_num}"
            if len(row) != 3 or row[2].strip() not in ("0", "1") or not row[0] or CONTROLS.search(row[0]):
                raise Misconfigured(f"{at}: it is no example; {_SHAPE}.")
            name, label, said = row[0], row[1], row[2].strip() == "1"
            if label not in ids:
                raise Misconfigured(f"{at}: the bundle has no label {label!r:.200}.{nearest(label, labels)}")
            of_label = marks.setdefault(ids[label], {})
            if of_label.setdefault(images.setdefault(name, len(images)), said) is not said:
                raise Misconfigured(
                    f"{at}: an earlier line says the opposite of {name!r:.200} and {label!r}; keep one."
                )
    except csv.Error as error:
        raise Misconfigured(f"{path}, line {rows.line_num}: it is no CSV ({error}); {_SHAPE}.") from None
    return Examples(list(images), marks)
