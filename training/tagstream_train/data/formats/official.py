"""The training lists of Tag2Text's, RAM's and RAM++'s official programs.

    [{"image_path": "…", "caption": ["…"], "parse_label_id": [[3, 8]], "union_label_id": [3, 8, 21]}, …]

Ids count from 0 in the list of labels, a file of its own (`--labels`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from tagstream_train.data.formats.source import (
    Found,
    Names,
    Request,
    Source,
    checked,
    document,
    finder,
    lines,
    relative,
)
from tagstream_train.data.samples import FAIL_FAST
from workers.errors import Misconfigured


def as_list(value: object) -> object:
    """One text as a list of it."""
    return [value] if isinstance(value, str) else value


class _Item(BaseModel):
    image_path: str = Field(min_length=1, max_length=4096)
    caption: Annotated[list[str], FAIL_FAST, BeforeValidator(as_list)] = []
    parse_label_id: Annotated[list[Annotated[list[int], FAIL_FAST]], FAIL_FAST] = []
    union_label_id: Annotated[list[int], FAIL_FAST] = []


_ITEMS = TypeAdapter(Annotated[list[_Item], FAIL_FAST])


def read(request: Request) -> Source:
    items = document(request.path, _ITEMS)
    labels = request.labels or ()
    if not labels and any(item.union_label_id or any(item.parse_label_id) for item in items):
        raise Misconfigured(f"{request.path} has label ids; say what they mean with --labels FILE, one name a line.")
    root = request.root(item.image_path for item in items)
    found = (
        _found(item, labels, f"{request.path}, {number}", relative(root, item.image_path))
        for number, item in enumerate(items)
    )
    return Source("official", root, labels, found)


def _found(item: _Item, labels: tuple[str, ...], where: str, image: str) -> Found:
    if item.parse_label_id and len(item.parse_label_id) != len(item.caption):
        raise Misconfigured(f"{where}: {len(item.parse_label_id)} lists of ids for {len(item.caption)} captions.")
    parsed = tuple(checked(ids, labels, where) for ids in item.parse_label_id)
    tags = checked((*item.union_label_id, *(label for ids in parsed for label in ids)), labels, where)
    return Found(image, tags, tuple(item.caption), parsed)


def read_annotation_list(request: Request) -> Source:
    """The official evaluation files: an image and its tags a line.

        test/0a1b2c3d4e5f6789,dog,grass            OpenImages: names (or ids), between commas; files end in .jpg
        ILSVRC2012_val_00000001.JPEG,65 112        ImageNet-Multi and HICO: ids, between blanks

    The labels are in a file of their own, one a line: `…_taglist.txt` in the same folder, or `--labels`.
    """
    labels = request.labels or _labels_beside(request.path)
    names = Names(labels)
    root = request.root(line.partition(",")[0] for _, line in lines(request.path))
    return Source("annotation-list", root, labels, _items(request.path, root, names))


def _items(path: Path, root: Path, names: Names) -> Iterator[Found]:
    find = finder(root)
    for number, line in lines(path):
        if not line.strip():
            continue
        name, _, rest = line.partition(",")
        tags = _ids(rest, names, f"{path}, line {number}")
        yield Found(find(name) or f"{name}{'' if '.' in name else '.jpg'}", tags)


def _ids(rest: str, names: Names, where: str) -> tuple[int, ...]:
    words = [word.strip() for word in rest.split(",") if word.strip()]
    numbers = rest.replace(",", " ").split()
    if all(word.isascii() and word.isdigit() for word in numbers) and not set(words) <= set(names.labels):
        return checked(map(int, numbers), names.labels, where)
    return names.ids(words, where)


def _labels_beside(path: Path) -> tuple[str, ...]:
    """The official label list in the same folder."""
    stem = path.name.replace("annots.txt", "")
    for name in (f"{stem}taglist.txt", f"{stem}tagidlist.txt"):
        if stem != path.name and (path.parent / name).is_file():
            return tuple(line for _, line in lines(path.parent / name) if line.strip())
    raise Misconfigured(f"{path} comes with a list of its labels; give it with --labels FILE, one name a line.")
