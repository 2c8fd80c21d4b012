"""FiftyOne's exports: `samples.json`, and `labels.json` of classifications and detections.

Of its own format the labels of all fields are taken, classifications and detections alike; a sample's `tags`, which
people use for parts and reviews, are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from tagstream_train.data.formats.source import SUFFIXES, Found, Names, Request, Source, document, relative
from tagstream_train.data.samples import FAIL_FAST
from workers.errors import Misconfigured

_LISTS = {"Classifications": "classifications", "Detections": "detections", "Polylines": "polylines"}


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
    near = Request(path, request.images, request.labels)
    return _read_samples(near) if path.name != "labels.json" else _read_labels(near)


def _read_samples(request: Request) -> Source:
    samples = document(request.path, _SAMPLES).samples
    tagged: list[tuple[str, str, list[str]]] = []
    for number, sample in enumerate(samples):
        where = f"{request.path}, samples.{number}"
        name = sample.get("filepath")
        if not isinstance(name, str) or not name:
            raise Misconfigured(f"{where}: it has no filepath.")
        tagged.append((name, where, list(_field_labels(sample.values(), where))))
    names = Names(request.labels, (label for _, _, labels in tagged for label in labels))
    root = request.root(name for name, _, _ in tagged)
    items = (Found(relative(root, name), names.ids(labels, where)) for name, where, labels in tagged)
    return Source("fiftyone", root, names.labels, items)


def _field_labels(fields: Iterable[Any], where: str) -> Iterator[str]:
    """The labels of a sample's fields."""
    for field in fields:
        kind = field.get("_cls") if isinstance(field, dict) else None
        if kind == "Classification":
            yield from _label(field, where)
        elif isinstance(kind, str) and kind in _LISTS:
            inner = field.get(_LISTS[kind])
            for each in inner if isinstance(inner, list) else []:
                yield from _label(each, where)


def _label(value: Any, where: str) -> Iterator[str]:
    label = value.get("label") if isinstance(value, dict) else value
    if label is None:
        return
    if not isinstance(label, str):
        raise Misconfigured(f"{where}: a label is {str(label)[:50]!r}, and not a name.")
    yield label


def _read_labels(request: Request) -> Source:
    content = document(request.path, _LABELS)
    named = {
        key: list(_targets(value, content.classes, f"{request.path}, labels.{key[:100]}"))
        for key, value in content.labels.items()
    }
    given = request.labels or tuple(content.classes) or None
    names = Names(given, (label for labels in named.values() for label in labels))
    root = request.images or request.path.parent / "data"
    files = _by_stem(root)
    items = (
        Found(files.get(key, key), names.ids(labels, f"{request.path}, labels.{key[:100]}"))
        for key, labels in named.items()
    )
    return Source("fiftyone", root, names.labels, items)


def _targets(value: Any, classes: list[str], where: str) -> Iterator[str]:
    """The labels of one image."""
    for each in value if isinstance(value, list) else [value]:
        label = each.get("label") if isinstance(each, dict) else each
        if isinstance(label, int) and not isinstance(label, bool):
            if not 0 <= label < len(classes):
                raise Misconfigured(f"{where}: label {label!r:.200}, and there are {len(classes)} classes (from 0).")
            yield classes[label]
        else:
            yield from _label(label, where)


def _by_stem(root: Path) -> Mapping[str, str]:
    """Files by their path without the suffix, and with it."""
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES]
    return {path.rpartition(".")[0]: path for path in paths} | {path: path for path in paths}
