"""COCO's files: instances, captions, panoptic segmentation.

The tags of an image are the categories of its annotations. Where a file names categories that were looked for and not
found (LVIS does), these are known to be absent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

from tagstream_train.data.formats.source import Found, Names, Request, Source, document
from tagstream_train.data.samples import FAIL_FAST, MAX_LABELS
from workers.errors import Misconfigured

_Id = int | str


class _Image(BaseModel):
    id: _Id
    file_name: str = Field(default="", max_length=4096)
    coco_url: str = ""
    neg_category_ids: Annotated[list[int], FAIL_FAST] | None = None


class _Segment(BaseModel):
    category_id: int


class _Annotation(BaseModel):
    image_id: _Id
    category_id: int | None = None
    caption: str | None = Field(default=None, max_length=100_000)
    segments_info: Annotated[list[_Segment], FAIL_FAST] = []


class _Category(BaseModel):
    id: int
    name: str = Field(max_length=1000)


class _Coco(BaseModel):
    images: Annotated[list[_Image], FAIL_FAST]
    annotations: Annotated[list[_Annotation], FAIL_FAST] = []
    categories: Annotated[list[_Category], FAIL_FAST] = Field(default=[], max_length=MAX_LABELS)


_COCO = TypeAdapter(_Coco)


def read(request: Request) -> Source:
    path = request.path
    coco = document(path, _COCO)
    categories = sorted(coco.categories, key=lambda category: category.id)
    names = Names(request.labels or tuple(category.name for category in categories))
    by_id = {
        category.id: names.ids([category.name], f"{path}, category {category.id!r:.200}") for category in categories
    }
    return Source("coco", request.root(map(_name, coco.images)), names.labels, _items(path, coco, by_id))


def _items(path: Path, coco: _Coco, by_id: Mapping[int, tuple[int, ...]]) -> Iterator[Found]:
    tags: dict[_Id, set[int]] = defaultdict(set)
    captions: dict[_Id, list[str]] = defaultdict(list)
    known = _by_id(path, coco.images)
    for number, annotation in enumerate(coco.annotations):
        where = f"{path}, annotations.{number}"
        if annotation.image_id not in known:
            raise Misconfigured(f"{where}: there is no image {annotation.image_id!r:.200}.")
        given = [] if annotation.category_id is None else [annotation.category_id]
        for category in (*given, *(segment.category_id for segment in annotation.segments_info)):
            tags[annotation.image_id].update(_labels(category, by_id, where))
        if annotation.caption:
            captions[annotation.image_id].append(annotation.caption.strip())
    for number, image in known.values():
        where = f"{path}, images.{number}"
        negative = image.neg_category_ids
        absent = None if negative is None else tuple(i for each in negative for i in _labels(each, by_id, where))
        if not _name(image):
            raise Misconfigured(f"{where}: it has no file_name.")
        yield Found(_name(image), tuple(sorted(tags[image.id])), tuple(captions[image.id]), absent=absent)


def _by_id(path: Path, images: Iterable[_Image]) -> dict[_Id, tuple[int, _Image]]:
    """Images with their list numbers; repeated names once."""
    found: dict[_Id, tuple[int, _Image]] = {}
    for number, image in enumerate(images):
        first, known = found.setdefault(image.id, (number, image))
        if _name(known) != _name(image):
            raise Misconfigured(f"{path}, images.{number}: images.{first} has the same id, {image.id!r:.200}.")
    return found


def _labels(category: int, by_id: Mapping[int, tuple[int, ...]], where: str) -> tuple[int, ...]:
    if category not in by_id:
        raise Misconfigured(f"{where}: there is no category {category!r:.200}.")
    return by_id[category]


def _name(image: _Image) -> str:
    """LVIS gives the address alone, which ends in `train2017/000000391895.jpg`."""
    return image.file_name or "/".join(image.coco_url.split("/")[-2:])
