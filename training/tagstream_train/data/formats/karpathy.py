"""Captions of COCO and Flickr30K in Karpathy's split.

BLIP's lists, or the whole file `dataset_coco.json`:

[{"image": "train2014/a.jpg", "caption": "…", "image_id": "coco_1"}, …]        a caption
[{"image": "val2014/b.jpg", "caption": ["…", "…"]}, …]                          an image
{"images": [{"filepath": "val2014", "filename": "b.jpg", "split": "test", "sentences": [{"raw": "…"}]}, …]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from tagstream_train.data.formats.official import as_list
from tagstream_train.data.formats.source import Found, Request, Source, begins, document, relative
from tagstream_train.data.samples import FAIL_FAST, Part
from workers.errors import Misconfigured

_Caption: TypeAlias = Annotated[str, Field(max_length=100_000)]


class _ListItem(BaseModel):
    image: str = Field(min_length=1, max_length=4096)
    caption: Annotated[list[_Caption], FAIL_FAST, BeforeValidator(as_list)]


class _Sentence(BaseModel):
    raw: _Caption


class _SplitImage(BaseModel):
    filepath: str = Field(default="", max_length=4096)
    filename: str = Field(min_length=1, max_length=4096)
    split: Literal["train", "restval", "val", "test"]
    sentences: Annotated[list[_Sentence], FAIL_FAST]


class _Whole(BaseModel):
    images: Annotated[list[_SplitImage], FAIL_FAST]


_LIST, _WHOLE = TypeAdapter(Annotated[list[_ListItem], FAIL_FAST]), TypeAdapter(_Whole)


def read(request: Request) -> Source:
    found: dict[str, tuple[list[str], Part | None]] = {}
    for image, captions, part in _entries(request.path):
        found.setdefault(image, ([], part))[0].extend(captions)
    if not found:
        raise Misconfigured(f"{request.path} names no image.")
    root = request.root(found)
    items = (Found(relative(root, image), captions=tuple(said), part=part) for image, (said, part) in found.items())
    return Source("karpathy", root, request.labels or (), items)


def _entries(path: Path) -> Iterator[tuple[str, list[str], Part | None]]:
    """An image's name, captions of it, and its part."""
    if path.is_file() and begins(path).startswith(b"{"):
        for each in document(path, _WHOLE).images:
            part: Part = "train" if each.split == "restval" else each.split
            said = [sentence.raw.strip() for sentence in each.sentences]
            yield "/".join(filter(None, (each.filepath, each.filename))), said, part
    else:
        for item in document(path, _LIST):
            yield item.image, [caption.strip() for caption in item.caption], None
