"""The images and events of `tagstream emit`: from a folder or a bucket."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import stat
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar

from schemas.printable import printable
from schemas.text import KEY_BYTES_MAX
from workers.assembly.needs import IMAGES
from workers.backends.s3.store import FoundObject, MinioObjectStore
from workers.errors import Gone, LargerThanReserved, Misconfigured, Rejected, Superseded
from workers.files import read_regular_file
from workers.types import Message


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A stored object.

    Args:
        etag: without quotes.
        date: of the store's answer, RFC 3339: the event's time. None: the event has no time.
    """

    bucket: str
    key: str
    size: int
    etag: str
    date: str | None = None


def event_for(image: StoredImage, topic: str) -> Message:
    """The event of this image, keyed bucket/key: an object's events keep their order.

    It has no sequencer: listings lack it, and an invented one could make the store's next event stale. A worker that
    reads another etag skips the event as superseded.
    """
    document = {
        "schema": "image-event/1",
        "id": f"emit-{time.time_ns():x}",
        "bucket": image.bucket,
        "key": image.key,
        "etag": image.etag,
        "size": image.size,
        "event_time": image.date,
    }
    value = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Message(topic, f"{image.bucket}/{image.key}".encode(), value, ())


BATCH = 100
"""Events sent at once: as many may be sent twice after an interruption."""
UPLOADS = 8
"""Uploads at the same time."""
OTHER_CONTENT = "other content lies under its key (--overwrite replaces it)"
_EXCEPTED = "named by --except"
_READ_S = 60.0

Outcome = Literal["uploaded", "replaced", "there already", "listed"]
Images: TypeAlias = Generator[tuple[StoredImage, Outcome], None, None]
Item = TypeVar("Item")


class LeftOut:
    """Counts images without an event by reason, with a first name each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, name: str) -> None:
        self._counts[reason] += 1
        self._first.setdefault(reason, name)

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    def lines(self) -> Iterator[str]:
        for reason, count in self._counts.most_common():
            yield f"left out {count:,}: {reason}; the first is {printable(self._first[reason])}"


class ImageSource(Protocol):
    """The images of one `emit`, in key order; keys begin with the chosen prefix."""

    left_out: LeftOut

    def images(self, store: MinioObjectStore, last: str, *, try_only: bool) -> Images:
        """The images behind `last`, with how each was, or would be, stored."""


@dataclass(eq=False)
class BucketSource:
    """The objects of a bucket under a prefix."""

    bucket: str
    prefix: str
    excepted: Set[str] = frozenset()
    left_out: LeftOut = field(default_factory=LeftOut, init=False)

    def images(self, store: MinioObjectStore, last: str, *, try_only: bool) -> Images:
        """Raises Misconfigured: there is nothing, and `last` does not say that there was."""
        any_key = bool(last)
        for found in store.list(self.bucket, self.prefix, last):
            if found.key.endswith("/"):
                self.left_out.add("not an image but a folder's own entry", found.key)
                continue
            any_key = True
            if f"{self.bucket}/{found.key}" in self.excepted:
                self.left_out.add(_EXCEPTED, found.key)
                continue
            yield StoredImage(self.bucket, found.key, found.size, found.etag, found.date), "listed"
        if not any_key:
            beginning = f" with a key that begins with {printable(self.prefix)!r}" if self.prefix else ""
            raise Misconfigured(f"the bucket {self.bucket} holds no object{beginning}")


@dataclass(eq=False)
class FolderSource:
    """A folder's images, uploaded one by one; links to folders are not followed.

    Args:
        max_bytes: what a worker with these settings takes; larger files are left out.
        overwrite: replace other content that lies under an image's key, instead of leaving the image out.
    """

    folder: Path
    bucket: str
    prefix: str
    max_bytes: int
    overwrite: bool
    excepted: Set[str] = frozenset()
    left_out: LeftOut = field(default_factory=LeftOut, init=False)

    def __post_init__(self) -> None:
        self._files = self._found()

    def behind(self, last: str) -> list[tuple[str, Path]]:
        """The images behind `last` as (key, file), in a store's key order."""
        return [(key, path) for key, path in self._files if key.encode() > last.encode()]

    def images(self, store: MinioObjectStore, last: str, *, try_only: bool) -> Images:
        if not try_only:
            store.make_bucket(self.bucket)
        upload = _Upload(store, self.bucket, self.max_bytes, self.overwrite, try_only)
        pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        try:
            for files in batches(self.behind(last), BATCH):
                for (key, _), result in zip(files, pool.map(upload, files), strict=True):
                    if isinstance(result, str):
                        self.left_out.add(result, key)
                    else:
                        yield result
        finally:
            pool.shutdown(cancel_futures=True)

    def _found(self) -> list[tuple[str, Path]]:
        """Raises Misconfigured: the folder holds no image."""
        files = []
        walked = os.walk(self.folder, onerror=lambda error: self.left_out.add("can't be listed", error.filename))
        for place, _, names in walked:
            for name in names:
                path = Path(place, name)
                key = self.prefix + path.relative_to(self.folder).as_posix()
                if reason := self._refusal(path, key):
                    self.left_out.add(reason, os.fsencode(path.relative_to(self.folder)).decode("utf-8", "replace"))
                else:
                    files.append((key, path))
        if not files:
            said = "".join(f"\n{line}" for line in self.left_out.lines())
            raise Misconfigured(f"{self.folder} holds no images ({', '.join(sorted(IMAGES))}){said}")
        return sorted(files, key=lambda file: file[0].encode())

    def _refusal(self, path: Path, key: str) -> str:
        """Why this file's name or size forbids an upload, or empty."""
        if path.suffix.lower() not in IMAGES:
            return "not an image by its ending"
        if f"{self.bucket}/{key}" in self.excepted:
            return _EXCEPTED
        try:
            if len(key.encode()) > KEY_BYTES_MAX:
                return f"its key has more than {KEY_BYTES_MAX:,} bytes"
            facts = path.stat()
        except UnicodeEncodeError:
            return "its name is no UTF-8"
        except OSError as error:
            return f"can't be read: {error.strerror}"
        if not stat.S_ISREG(facts.st_mode):
            return "not a regular file"
        if not facts.st_size:
            return "empty"
        return "" if facts.st_size <= self.max_bytes else _too_large(self.max_bytes)


@dataclass(eq=False)
class _Upload:
    """Uploads a file unless its content is there; returns a sentence if left out."""

    store: MinioObjectStore
    bucket: str
    max_bytes: int
    overwrite: bool
    try_only: bool

    def __call__(self, file: tuple[str, Path]) -> tuple[StoredImage, Outcome] | str:
        key, path = file
        try:
            body = read_regular_file(path, self.max_bytes)
            found = self.store.find(self.bucket, key)
        except OSError as error:
            return f"can't be read: {error.strerror}"
        except LargerThanReserved:
            return _too_large(self.max_bytes)
        except Rejected as error:
            return error.detail
        if found is not None:
            if self._is_same(key, found, body):
                return StoredImage(self.bucket, key, len(body), found.etag, found.date), "there already"
            if not self.overwrite:
                return OTHER_CONTENT
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        sha256 = hashlib.sha256(body).hexdigest()
        etag = "" if self.try_only else self.store.put(self.bucket, key, body, kind, sha256=sha256)
        outcome: Outcome = "uploaded" if found is None else "replaced"
        return StoredImage(self.bucket, key, len(body), etag, self.store.date), outcome

    def _is_same(self, key: str, found: FoundObject, body: bytes) -> bool:
        """Whether the stored object has this content; one with neither sha256 nor MD5 is read."""
        if found.size != len(body):
            return False
        if found.sha256:
            return found.sha256 == hashlib.sha256(body).hexdigest()
        if found.etag == hashlib.md5(body, usedforsecurity=False).hexdigest():
            return True
        try:
            stored = self.store.get(
                self.bucket, key, version_id=None, etag=None, max_bytes=found.size, deadline_s=_READ_S
            )
        except (Gone, Superseded, Rejected, LargerThanReserved):
            return False  # it changed meanwhile
        return stored.body == body


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of this size; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _too_large(max_bytes: int) -> str:
    return f"larger than the {max_bytes:,} bytes that TAGSTREAM_MAX_OBJECT_BYTES allows"
