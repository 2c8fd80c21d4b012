"""Annotations in others' formats, and how each is recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tagstream_train.data.formats import coco, fiftyone, folders, karpathy, label_studio, official, table, webdataset
from tagstream_train.data.formats.source import Found, Request, Source, begins
from tagstream_train.data.samples import check_names
from workers.errors import Misconfigured, nearest

__all__ = ["FORMATS", "Found", "Request", "Source", "guess", "open_source"]

FORMATS: Mapping[str, Callable[[Request], Source]] = {
    "tagstream": folders.read_tagstream,
    "folders": folders.read,
    "csv": table.read,
    "coco": coco.read,
    "karpathy": karpathy.read,
    "official": official.read,
    "fiftyone": fiftyone.read,
    "label-studio": label_studio.read,
    "annotation-list": official.read_annotation_list,
    "webdataset": webdataset.read,
}


def open_source(request: Request, format: str | None = None) -> Source:  # noqa: A002  # the word of the option
    """Read annotations.

    Args:
        format: one of FORMATS; None: guessed.

    Raises:
        Misconfigured: they can't be read; the sentence names the file, and the line or the place in it.
    """
    if not request.path.exists():
        raise Misconfigured(f"{request.path} does not exist.")
    chosen = format or guess(request.path)
    if chosen not in FORMATS:
        raise Misconfigured(f"{chosen!r} is no format; they are {', '.join(FORMATS)}.{nearest(chosen, FORMATS)}")
    if request.groups is not None and chosen != "csv":
        raise Misconfigured(f"Groups are a column of a CSV, and {request.path} is read as {chosen}.")
    source = FORMATS[chosen](request)
    check_names(source.labels, str(request.path))
    return source


def guess(path: Path) -> str:
    """Guess a format from the file's name and beginning.

    Raises:
        Misconfigured: it resembles no format.
    """
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        raise Misconfigured(
            f"The format of {path} can't be told, as it has no folder for each tag ({path}/dog/1.jpg) and no known "
            f"annotations. Sort the images, or name the format by `train import --format`: {', '.join(FORMATS)}."
        )
    return found


def _of_folder(folder: Path) -> str | None:
    has = {path.name for path in folder.iterdir()}
    if "dataset.json" in has:
        return "tagstream"
    if has & {"samples.json", "labels.json"}:
        return "fiftyone"
    if any(name.endswith(".tar") for name in has):
        return "webdataset"
    return "folders" if any(path.is_dir() for path in folder.iterdir()) else None


def _of_file(path: Path) -> str | None:
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    if path.suffix.lower() in (".txt", ".tar"):
        return "annotation-list" if path.suffix.lower() == ".txt" else "webdataset"
    if path.suffix.lower() != ".json":
        return None
    return _of_json(begins(path))


def _of_json(head: bytes) -> str | None:
    """Guess a JSON document's format from its first keys."""
    if head.startswith(b"["):
        if b'"image_path"' in head:
            return "official"
        return "label-studio" if b'"data"' in head else "karpathy" if b'"caption"' in head else None
    if b'"sentences"' in head:
        return "karpathy"
    if b'"images"' in head or b'"annotations"' in head or b'"categories"' in head:
        return "coco"
    return "fiftyone" if b'"samples"' in head or b'"labels"' in head else None
