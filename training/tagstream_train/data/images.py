"""Reads a set's images within the worker's limits, and carries them on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from PIL import Image

from schemas.printable import escaped
from tagstream_train.data.hashes import Hashes
from tagstream_train.data.samples import Sample
from tagstream_train.data.shards import BadShard, Place, Shards, place_of, plain_file
from workers.errors import Gone, LargerThanReserved, Misconfigured, Rejected
from workers.intake.decoding import Decoding
from workers.intake.limits import Limits
from workers.ports import ObjectStore
from workers.types import ObjectVersion, StoredObject

if TYPE_CHECKING:
    from workers.backends.s3.store import MinioObjectStore

S3: Final = "s3://"
_LONGEST_NAME = 1000
"""Characters of an image's name in a sentence."""


class BadImage(Misconfigured):
    """An image is unusable. A run skips and reports it."""

    def __init__(self, image: str, reason: str) -> None:
        self.image = escaped(image)
        super().__init__(f"{self.image[:_LONGEST_NAME]}: {reason}")
        self.reason = reason


class NamedBuckets:
    """Reads objects of the named buckets only."""

    def __init__(self, store: MinioObjectStore, buckets: Set[str]) -> None:
        self._store = store
        self._buckets = buckets

    def get(self, bucket: str, key: str, **how: Any) -> StoredObject:
        self._require(bucket)
        return self._store.get(bucket, key, **how)

    def head(self, bucket: str, key: str, *, deadline_s: float) -> ObjectVersion:
        self._require(bucket)
        return self._store.head(bucket, key, deadline_s=deadline_s)

    def names(self, place: str) -> Iterator[str]:
        """Names of the objects below `s3://bucket/prefix`, as a set has them."""
        bucket, prefix = _named(place)
        self._require(bucket)
        return (name_of(bucket, each.key) for each in self._store.list(bucket, prefix))

    def _require(self, bucket: str) -> None:
        if bucket not in self._buckets:
            allow = "add it to TAGSTREAM_BUCKETS, or name it with --bucket, if the set may read it"
            raise Rejected("fetch", "bucket-not-allowed", allow)


class Images:
    """Opens a data set's images by name. Thread-safe.

    Args:
        folder: the data set's; a name without `s3://` is a path below it, or through a shard below it.
        store: of objects named `s3://bucket/key`.
        limits: of an image; by default a worker's.
    """

    def __init__(self, folder: Path, *, store: ObjectStore | None = None, limits: Limits | None = None) -> None:
        self._folder = folder.resolve()
        self._store = store
        self._limits = limits or Limits()
        self._decoding = Decoding((), self._limits)
        self._shards = Shards(lambda name: plain_file(below(self._folder, name)))
        self.hashes = Hashes()

    def read(self, image: str, sha256: str | None = None) -> bytes:
        """The encoded bytes.

        Args:
            sha256: the set's hash; None: no check.

        Raises:
            BadImage: no bytes, too many, or other bytes than the hash says.
            Misconfigured: the image is an object, and no store is known.
            Unavailable: the store does not answer.
        """
        body, stamp = self._read(image)
        if sha256 is not None:
            _require_alike(image, self._hashed(image, body, stamp), sha256)
        return body

    def sha256(self, image: str) -> str:
        """The hash of the encoded bytes, hex; an unchanged file or object is not read again.

        Raises:
            As `read`.
        """
        stamp = self._stamp(image)
        known = None if stamp is None else self.hashes.of(self._place(image), stamp)
        return known or self._hashed(image, *self._read(image))

    def require_alike(self, image: str, sha256: str) -> None:
        """
        Raises:
            As `read`.
        """
        _require_alike(image, self.sha256(image), sha256)

    def load(self, image: str, *, sha256: str | None = None, exif_transpose: bool = False) -> Image.Image:
        """Return the image in RGB at its own size.

        Raises:
            As `read`, and BadImage: it can't be decoded, or is over a limit.
        """
        return self.decode(image, self.read(image, sha256), exif_transpose=exif_transpose)

    def decode(self, image: str, body: bytes, *, exif_transpose: bool = False) -> Image.Image:
        """Decode bytes of `read`, as `load` does."""
        with _faults_of(image, self._limits):
            header = self._decoding.inspect(body)
            self._decoding.decode_bytes(header)
            return self._decoding.load_rgb(body, header.format, exif_transpose=exif_transpose)

    def check(self, image: str, body: bytes) -> None:
        """Read the header alone.

        Raises:
            BadImage: it is broken, or over a limit.
        """
        with _faults_of(image, self._limits):
            self._decoding.decode_bytes(self._decoding.inspect(body))

    def _read(self, image: str) -> tuple[bytes, str | None]:
        """The bytes, and the stamp for their hash's cache entry; None: no entry."""
        stamp: str | None = None
        if image.startswith(S3):
            body, stamp = self._object(image)
        elif place := place_of(image):
            body = self._member(image, place)
        else:
            body, stamp = self._file(image)
        if len(body) > self._limits.max_object_bytes:
            raise BadImage(image, f"more than {self._limits.max_object_bytes:,} bytes")
        if not body:
            raise BadImage(image, "it is empty")
        return body, stamp

    def _hashed(self, image: str, body: bytes, stamp: str | None) -> str:
        found = hashlib.sha256(body).hexdigest()
        if stamp is not None:
            self.hashes.note(self._place(image), stamp, found)
        return found

    def _place(self, image: str) -> str:
        return image if image.startswith(S3) else str(below(self._folder, image))

    def _stamp(self, image: str) -> str | None:
        """A stamp that changes with the bytes, without reading them."""
        if image.startswith(S3):
            store = self._store_of(image)
            with _faults_of(image, self._limits):
                version = store.head(*_named(image), deadline_s=self._limits.fetch_s)
            return f"{version.etag} {version.version_id}"
        if place_of(image):
            return None
        try:
            return _stamp(os.stat(below(self._folder, image)))
        except OSError as error:
            raise BadImage(image, error.strerror or "it can't be read") from None

    def _file(self, image: str) -> tuple[bytes, str]:
        try:
            with plain_file(below(self._folder, image)) as file:
                stamp = _stamp(os.fstat(file.fileno()))
                return file.read(self._limits.max_object_bytes + 1), stamp
        except OSError as error:
            raise BadImage(image, error.strerror or "it can't be read") from None

    def _member(self, image: str, place: Place) -> bytes:
        try:
            return self._shards.read(place, self._limits.max_object_bytes)
        except BadShard as error:
            raise BadImage(image, str(error)) from None

    def _store_of(self, image: str) -> ObjectStore:
        if self._store is None:
            raise Misconfigured(f"{image} is an object; set TAGSTREAM_S3_ENDPOINT and credentials to read it.")
        return self._store

    def _object(self, image: str) -> tuple[bytes, str]:
        store, limits = self._store_of(image), self._limits
        with _faults_of(image, limits):
            stored = store.get(
                *_named(image), version_id=None, etag=None, max_bytes=limits.max_object_bytes, deadline_s=limits.fetch_s
            )
        return stored.body, f"{stored.etag} {stored.version_id}"


def name_of(bucket: str, key: str) -> str:
    """An object's name in a set."""
    return f"{S3}{bucket}/{quote(key)}"


def _named(image: str) -> tuple[str, str]:
    """Bucket and key of an object."""
    bucket, _, key = image.removeprefix(S3).partition("/")
    return bucket, unquote(key)


@contextmanager
def _faults_of(image: str, limits: Limits) -> Iterator[None]:
    """Context for reading or decoding an image: its faults become `BadImage`."""
    try:
        yield
    except Gone:
        raise BadImage(image, "there is no such object") from None
    except LargerThanReserved:
        raise BadImage(image, f"more than {limits.max_object_bytes:,} bytes") from None
    except Rejected as error:
        raise BadImage(image, f"{error.reason}: {error.detail}") from None


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns}"


def _require_alike(image: str, found: str, said: str) -> None:
    if found != said:
        raise BadImage(image, "its bytes are not those that the set names: they were changed; import them again")


def below(folder: Path, name: str) -> Path:
    """The path of a file of the folder, which is resolved already.

    Raises:
        BadImage: the name leads out of the folder.
    """
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
        raise BadImage(name, "no file has this name") from None
    if not path.is_relative_to(folder):
        raise BadImage(name, f"it lies outside {folder.name}")
    return path


class Carrier:
    """Links image files into another folder, or copies them.

    Hard links cost no space, and each set can be moved or deleted without the other. Objects in a bucket stay there.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source.resolve(), target.resolve()
        self.missing: list[str] = []
        """Names that have no file; training skips and reports them."""

    def carry(self, sample: Sample) -> None:
        """
        Raises:
            Misconfigured: the folder can't be written to.
        """
        if self._source == self._target or sample.image.startswith(S3):
            return
        if (source := self._file(sample)) is None:
            self.missing.append(sample.image)
        else:
            link(source, self._target / sample.image)

    def _file(self, sample: Sample) -> Path | None:
        try:
            path = below(self._source, sample.image)
        except BadImage:
            return None
        return path if path.is_file() else None


def link(path: Path, target: Path) -> None:
    """Link or copy a file, unless the target exists.

    Raises:
        Misconfigured: it can't be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileExistsError:
        pass
    except OSError:  # another file system, or one without links
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise Misconfigured(f"{path} can't be copied to {target}: {error.strerror}.") from None
