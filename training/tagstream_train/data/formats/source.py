"""Common types of all annotation formats: images with label ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tagstream_train.data.samples import MAX_LABELS, Ids, Part, bounded_lines
from workers.errors import Misconfigured, nearest
from workers.models.files import content_of

Document = TypeVar("Document")

MAX_DOCUMENT_BYTES = 1024**3
"""The largest JSON file that is read; the largest of COCO's has 470 MB."""
PARTS: dict[str, Part] = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
PARTS |= {"train": "train", "val": "val", "test": "test"}
"""Parts by their usual names."""
_HEAD_BYTES = 1 << 20
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Suffixes of image files in a search. A file's format follows from its content."""


@dataclass(frozen=True, slots=True)
class Found:
    """An image and its annotations.

    Args:
        image: path below the source's root, or `s3://bucket/key`.
        caption_tags: label ids of each caption, or empty.
        absent: label ids that it is known to lack; None: unknown.
        part: as in the author's files.
        group: a burst or a video; its images fall into one part.
    """

    image: str
    tags: Ids = ()
    captions: tuple[str, ...] = ()
    caption_tags: tuple[Ids, ...] = ()
    absent: Ids | None = None
    part: Part | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Opened annotations.

    Args:
        labels: names by id; formats with ids can repeat a name.
        items: can name an image more than once. Can be read once.
        notes: sentences on ignored annotations; complete when all items are read.
    """

    format: str
    root: Path
    labels: Sequence[str]
    items: Iterable[Found]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """A file or folder to read, and the user's options.

    Args:
        images: the folder of the images, if it does not follow from `path`.
        labels: names of the labels, in the order of their ids; None: all that occur, or the format's list.
        groups: the column with each image's group.
    """

    path: Path
    images: Path | None = None
    labels: tuple[str, ...] | None = None
    groups: str | None = None

    def root(self, names: Iterable[str]) -> Path:
        """The given image folder, or one near the annotations."""
        if self.images is not None:
            return self.images
        folder = self.path if self.path.is_dir() else self.path.parent
        first = next(iter(names), "")
        near = (folder, folder / "images", folder / "data", folder.parent, folder.parent / "images")
        coco = folder.parent / self.path.stem.rpartition("_")[2]  # annotations/instances_val2017.json, val2017/…
        for candidate in (*near, coco):
            if first and with_suffix(candidate, first) is not None:
                return candidate
        return folder


class Names:
    """Label ids by name.

    Args:
        given: the allowed names; None: all names of `found`.
        found: names with repetition.
    """

    def __init__(self, given: Sequence[str] | None, found: Iterable[str] = ()) -> None:
        self.labels: tuple[str, ...] = tuple(sorted(set(found))) if given is None else tuple(given)
        if len(self.labels) > MAX_LABELS:
            raise Misconfigured(f"There are {len(self.labels):,} labels; at most {MAX_LABELS:,} are read.")
        self._ids: dict[str, list[int]] = {}
        for number, name in enumerate(self.labels):
            self._ids.setdefault(name, []).append(number)

    def ids(self, names: Iterable[str], where: str) -> Ids:
        """Ascending label ids of these names.

        Raises:
            Misconfigured: there is no such label.
        """
        found: set[int] = set()
        for name in names:
            if name not in self._ids:
                raise Misconfigured(f"{where}: there is no label {name[:200]!r}.{nearest(name, self._ids)}")
            found.update(self._ids[name])
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Said:
    """A file's annotations of an image, tags by name."""

    image: str
    tags: Sequence[str]
    where: str
    captions: tuple[str, ...] = ()


def by_names(
    format: str,  # noqa: A002  # the word of the option
    request: Request,
    said: Iterable[Said],
    *,
    place: Callable[[Path, str], str] | None = None,
    root: Path | None = None,
) -> Source:
    """A source of images with tags by name.

    Args:
        place: an image's path below the root; by default `relative`.
        root: by default near the annotations.
    """
    every = list(said)
    names = Names(request.labels, (tag for each in every for tag in each.tags))
    folder = root or request.root(each.image for each in every)
    items = (
        Found((place or relative)(folder, each.image), names.ids(each.tags, each.where), each.captions)
        for each in every
    )
    return Source(format, folder, names.labels, items)


def checked(ids: Iterable[int], labels: Sequence[str], where: str) -> Ids:
    """These label ids, ascending, each once.

    Raises:
        Misconfigured: an id has no label.
    """
    found = tuple(sorted(set(ids)))
    for label in found:
        if not 0 <= label < len(labels):
            raise Misconfigured(f"{where}: label {label!r:.200}, and there are {len(labels):,} labels (from 0).")
    return found


def document(path: Path, adapter: TypeAdapter[Document]) -> Document:
    """A whole JSON file.

    Raises:
        Misconfigured: it is unreadable, too large, or of another format; with the place.
    """
    try:
        return adapter.validate_json(content_of(path, MAX_DOCUMENT_BYTES))
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        raise Misconfigured(f"{path}{', ' + where if where else ''}: {first['msg'][:300]}.") from None


def begins(path: Path) -> bytes:
    """A file's first MiB, without byte order mark and blanks before."""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, from 1, without line ends.

    Raises:
        Misconfigured: it can't be read, is no UTF-8, or has a line that is too long.
    """
    number = 0
    try:
        for number, line in enumerate(bounded_lines(path), 1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{path}, line {number}: not text in UTF-8.") from None


def with_suffix(root: Path, name: str) -> str | None:
    """Return the file's name, completed by an image suffix, or None."""
    path = os.path.join(root, name)  # strings: a table may have millions of names
    for suffix in ("",) if name.lower().endswith(SUFFIXES) else ("", *SUFFIXES):
        try:
            if os.path.isfile(path + suffix):
                return name + suffix
        except ValueError:  # a null byte
            return None
    return None


def finder(root: Path) -> Callable[[str], str | None]:
    """A cached `with_suffix`, for annotations that repeat an image."""
    return lru_cache(maxsize=10_000)(partial(with_suffix, root))


def relative(root: Path, name: str) -> str:
    """Shorten an absolute path below the root; keep other names."""
    if os.path.isabs(name):
        try:
            return str(Path(name).relative_to(root.absolute()))
        except ValueError:
            return name
    return name
