"""Sets of ours, and class folders: the folder's name is the tag.

The same image in two folders has both tags. If all folders are called train, val or test, they are parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tagstream_train.data.formats.source import PARTS, SUFFIXES, Found, Names, Request, Source
from tagstream_train.data.samples import DataSet, Sample
from workers.errors import Misconfigured


def read(request: Request) -> Source:
    root = request.images or request.path
    if not root.is_dir():
        raise Misconfigured(f"{root} is no folder.")
    inner = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    parts = PARTS if PARTS.keys() >= set(inner) else {}
    files = [path for path in _files(root) if len(path.parts) > (2 if parts else 1)]
    if not files:
        raise Misconfigured(f"{root} has no images in folders, one for each class (…/dog/1.jpg, …/cat/2.jpg).")
    names = Names(request.labels, (path.parent.name for path in files))
    items = (
        Found(str(path), names.ids([path.parent.name], f"{root / path}"), part=parts.get(path.parts[0]))
        for path in files
    )
    return Source("folders", root, names.labels, items)


def _files(root: Path) -> Iterator[Path]:
    """Sorted image paths below the root."""
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if Path(folder) != root:
            relative = Path(folder).relative_to(root)
            yield from (relative / name for name in sorted(files) if name.lower().endswith(SUFFIXES) and name[0] != ".")


def read_tagstream(request: Request) -> Source:
    """A set of ours, to join it with others."""
    dataset = DataSet(request.path)
    names = Names(request.labels or dataset.labels)
    same = names.labels == dataset.labels

    def ids(given: tuple[int, ...]) -> tuple[int, ...]:
        return given if same else names.ids((dataset.labels[label] for label in given), str(request.path))

    def found(sample: Sample) -> Found:
        absent = None if sample.absent is None else ids(sample.absent)
        caption_tags = tuple(map(ids, sample.caption_tags))
        return Found(sample.image, ids(sample.tags), sample.captions, caption_tags, absent, sample.part, sample.group)

    return Source("tagstream", request.images or request.path, names.labels, map(found, dataset))
