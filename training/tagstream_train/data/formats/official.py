"""The training lists of Tag2Text's, RAM's and RAM++'s official programs.

    [{"image_path": "…", "caption": ["…"], "parse_label_id": [[3, 8]], "union_label_id": [3, 8, 21]}, …]

Ids count from 0 in a list of labels that is a file of its own (`--labels`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from tagstream_train.data.formats.source import Found, Request, Source, checked, document, relative
from tagstream_train.data.samples import FAIL_FAST
from workers.errors import Misconfigured


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _Item(BaseModel):
    image_path: str = Field(min_length=1, max_length=4096)
    caption: Annotated[list[str], FAIL_FAST, BeforeValidator(_as_list)] = []
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
