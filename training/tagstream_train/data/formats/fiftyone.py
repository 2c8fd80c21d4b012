"""FiftyOne's exports: `samples.json`, and `labels.json` of classifications and detections.

Of its own format the labels of all fields are taken, classifications and detections alike; a sample's `tags`, which
people use for parts and reviews, are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from tagstream_train.data.formats.source import SUFFIXES, Request, Said, Source, by_names, document
from tagstream_train.data.samples import FAIL_FAST
from workers.errors import Misconfigured

_LISTS = ("Classifications", "Detections", "Polylines")


class _Samples(BaseModel):
    samples: Annotated[list[dict[str, Any]], FAIL_FAST]


class _Labels(BaseModel):
    classes: Annotated[list[str], FAIL_FAST] = Field(default=[])
    labels: dict[str, Any]


_SAMPLES, _LABELS = TypeAdapter(_Samples), TypeAdapter(_Labels)


def read(request: Request) -> Source:
    path = request.path
    if path.is_dir():
        path = next((path / name for name in ("samples.json", "labels.json") if (path / name).is_file()), path)
    near = replace(request, path=path)
    if path.name != "labels.json":
        return by_names("fiftyone", near, _samples(path))
    content, root = document(path, _LABELS), request.images or path.parent / "data"
    files = [str(each.relative_to(root)) for each in sorted(root.rglob("*")) if each.suffix.lower() in SUFFIXES]
    named = {each.rpartition(".")[0]: each for each in files} | {each: each for each in files}
    given = replace(near, labels=request.labels or tuple(content.classes) or None)
    return by_names("fiftyone", given, _targets(path, content), place=lambda _, key: named.get(key, key), root=root)


def _samples(path: Path) -> Iterator[Said]:
    """Images with the labels of all their fields."""
    for number, sample in enumerate(document(path, _SAMPLES).samples):
        where = f"{path}, samples.{number}"
        name = sample.get("filepath")
        if not isinstance(name, str) or not name:
            raise Misconfigured(f"{where}: it has no filepath.")
        yield Said(name, [label for field in sample.values() for label in _of_field(field, where)], where)


def _of_field(field: Any, where: str) -> Iterator[str]:
    kind = field.get("_cls") if isinstance(field, dict) else None
    if kind == "Classification":
        yield from _label(field, where)
    elif kind in _LISTS and isinstance(inner := field.get(kind.lower()), list):
        for each in inner:
            yield from _label(each, where)


def _targets(path: Path, content: _Labels) -> Iterator[Said]:
    """Images by the keys of labels.json."""
    for key, value in content.labels.items():
        where = f"{path}, labels.{key[:100]}"
        values = value if isinstance(value, list) else [value]
        yield Said(key, [label for each in values for label in _label(each, where, content.classes)], where)


def _label(value: Any, where: str, classes: Sequence[str] = ()) -> Iterator[str]:
    """A label's name, which may be a number among the classes."""
    label = value.get("label") if isinstance(value, dict) else value
    if classes and isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            raise Misconfigured(f"{where}: label {label!r:.200}, and there are {len(classes)} classes (from 0).")
        yield classes[label]
    elif isinstance(label, str):
        yield label
    elif label is not None:
        raise Misconfigured(f"{where}: a label is {str(label)[:50]!r}, and not a name.")
