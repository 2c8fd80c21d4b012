"""Thumbnails and views, by the intake's decoders; kept for a day, each for its subject and content."""

from __future__ import annotations

import io
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

from PIL import Image

from schemas.image_event import ImageEvent
from tagstream_index.query import require
from tagstream_index.searching import Found
from tagstream_index.settings import IndexSettings
from workers.assembly.clients import object_store
from workers.assembly.decoders import intake, limits
from workers.backends.s3.store import MinioObjectStore
from workers.breaker import OPENS_AFTER
from workers.errors import (
    BucketGone,
    Fault,
    Gone,
    LargerThanReserved,
    Rejected,
    Superseded,
    TagstreamError,
    Unavailable,
)
from workers.intake.geometry import unpadded
from workers.ports import Intake
from workers.tables import TemporaryTables
from workers.types import Assignment, Coordinates, Fetched, Job, Partition, Transform

Size: TypeAlias = Literal["thumb", "view", "large"]

SIDES: Final[Mapping[Size, int]] = {"thumb": 480, "view": 1600, "large": 4096}
"""Pixels of the longer side, at most."""
AT_ONCE: Final = 12
"""Pictures that are made at the same time: more than a few objects can hold that come a byte at a time."""
_STORE_REST_S: Final = 3.0
"""The pause after three different objects failed in a row: a page requests a hundred."""
_REST_S: Final[Mapping[Fault, float]] = {"service": 5.0, "too-slow": 60.0}
"""The pause after an object failed, by fault: a slow object keeps others waiting."""
_PATIENCE: Final = {"get_timeout_s": 10.0, "retry_s": 1.0}
"""Short: a reader waits for the picture."""
_PLACE: Final = Partition("page", 0)
_LINK_S: Final = 300

KEPT_S: Final = 24 * 3600.0
_PAGE_BYTES: Final = 4096
_MAKES_ROOM: Final = 100
"""The oldest pictures, which go where there is no room."""
_SWEPT: Final = 1_000
_TABLES: Final = f"""
pragma page_size = {_PAGE_BYTES}; pragma journal_mode = memory; pragma secure_delete = on;
create table picture (subject, side, sha256, made_at, jpeg, primary key (subject, side, sha256));
create index picture_made_at on picture (made_at);
"""

Current: TypeAlias = Callable[[list[str]], Mapping[str, str]]
"""Gives the sha256 of the content by subject, for given subjects that the index shows."""


def size_of(name: str) -> Size:
    """The size of that name, or a thumbnail's."""
    return next((each for each in SIDES if each == name), "thumb")


class NoPicture(Exception):
    """There is no picture to show: 404; for now: 502, the store fails for this object, 503, it does not answer."""

    def __init__(self, why: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> None:
        super().__init__(why)
        self.status = status


class Kept(TemporaryTables):
    """JPEGs in a temporary file, which ends with the process. Thread-safe.

    Args:
        most_bytes: of the file; the oldest pictures go first.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__(_TABLES, "pictures can't be kept")
        self._stored.execute(f"pragma max_page_count = {most_bytes // _PAGE_BYTES}")
        self._lock = threading.Lock()

    def read(self, subject: str, sha256: str, side: int) -> bytes | None:
        """The kept JPEG of this content, if any."""
        kept = "select jpeg from picture where (subject, side, sha256) = (?, ?, ?) and made_at > ?"
        with self._lock:
            found = self._stored.execute(kept, (subject, side, sha256, time.time() - KEPT_S)).fetchone()
        return None if found is None else bytes(found[0])

    def write(self, subject: str, sha256: str, side: int, jpeg: bytes) -> None:
        """Keep a picture; without room the next one is."""
        new = "insert or replace into picture values (?, ?, ?, ?, ?)"
        with self._lock, suppress(sqlite3.OperationalError):
            try:
                self._stored.execute(new, (subject, side, sha256, time.time(), jpeg))
            except sqlite3.OperationalError:
                oldest = "select rowid from picture order by made_at limit ?"
                self._stored.execute(f"delete from picture where rowid in ({oldest})", (_MAKES_ROOM,))

    def sweep(self, current: Current) -> None:
        """Remove old pictures, and those of other content than the index shows."""
        with self._lock:
            self._stored.execute("delete from picture where made_at <= ?", (time.time() - KEPT_S,))
            kept = self._stored.execute("select distinct subject, sha256 from picture").fetchall()
        for first in range(0, len(kept), _SWEPT):
            some = kept[first : first + _SWEPT]
            there = current([subject for subject, _ in some])
            over = [(subject, sha256) for subject, sha256 in some if there.get(subject) != sha256]
            with self._lock:
                self._stored.executemany("delete from picture where (subject, sha256) = (?, ?)", over)


class Pictures:
    """Makes JPEGs of objects, and keeps them. Thread-safe. Raises Misconfigured: no region to sign links for."""

    def __init__(self, settings: IndexSettings, most_bytes: int) -> None:
        self._settings = settings
        self._linking: MinioObjectStore | None = None
        if settings.index_store_url:
            said = "TAGSTREAM_INDEX_STORE_URL: set TAGSTREAM_S3_REGION too: links are signed for it (MinIO: us-east-1)"
            require(bool(settings.s3_region), said)
            self._linking = object_store(settings.model_copy(update={"s3_endpoint": settings.index_store_url}))
        self.kept = Kept(most_bytes)
        self._intakes: dict[Size, Intake] = {}
        self._lock = threading.Lock()
        self._answered_at = self._rest_until = float("-inf")
        self._failed: set[str] = set()
        """Subjects of objects that failed since the store's last answer."""
        self._resting: dict[str, float] = {}
        """Subjects of failed objects, and the end of each one's pause."""

    @property
    def store_away(self) -> bool:
        """Whether different objects failed in the last seconds."""
        return len(self._failed) >= OPENS_AFTER and time.monotonic() < self._rest_until

    def has_original(self, tile: Found) -> bool:
        return self._linking is not None and tile.bucket in self._settings.buckets

    def original(self, tile: Found) -> str:
        """An address that downloads the object for five minutes. Raises NoPicture: no link can be made."""
        if self._linking is None or not self.has_original(tile):
            raise NoPicture("no link leads into this bucket")
        name = tile.key.rpartition("/")[2][-100:]
        kind = name.lower().rpartition(".")[2]
        if kind not in (tile.format, "jpg", "jpe", "tif"):  # a key may say .html or .exe
            name = f"{name}.{tile.format}"
        try:
            return self._linking.link(
                tile.bucket, tile.key, version_id=tile.version_id, file_name=name, seconds=_LINK_S
            )
        except Rejected as error:
            raise NoPicture(error.detail) from error
        except Unavailable as error:
            raise NoPicture(error.detail, HTTPStatus.SERVICE_UNAVAILABLE) from error

    def there(self, tile: Found, size: Size) -> bytes | None:
        """The JPEG of a picture, if it is kept. Raises NoPicture: its bucket is not configured."""
        if tile.bucket not in self._settings.buckets:
            raise NoPicture("the bucket is not among TAGSTREAM_BUCKETS")
        return self.kept.read(tile.subject, tile.sha256, SIDES[size])

    def make(self, tile: Found, size: Size) -> bytes:
        """Fetch, decode and shrink a picture; `AT_ONCE` threads may call.

        Raises:
            NoPicture: its bucket is not configured, or there is no such object any more, or it can't be decoded, or the
                store fails.
        """
        if found := self.there(tile, size):
            return found
        try:
            with self._asking_for(tile.subject):
                jpeg = self._jpeg(tile, size)
        except BucketGone as error:
            raise NoPicture("the store has no such bucket") from error
        except Unavailable as error:
            raise NoPicture(f"the object store refuses it: {error.detail}") from error
        except (Gone, Superseded) as error:
            raise NoPicture("the object is not in the store any more") from error
        except (Rejected, LargerThanReserved) as error:
            raise NoPicture("the picture can't be decoded") from error
        self.kept.write(tile.subject, tile.sha256, SIDES[size], jpeg)
        return jpeg

    @contextmanager
    def _asking_for(self, subject: str) -> Iterator[None]:
        """A request for an object. Raises NoPicture: the store fails or rests, for this object or for all."""
        began = time.monotonic()
        if self.store_away or self._resting.get(subject, 0.0) > began:
            raise self._no_picture("it failed a moment ago")
        try:
            yield
        except TagstreamError as error:
            if isinstance(error, Unavailable) and error.fault in _REST_S:
                raise self._noted(subject, error, began) from error
            self._answered()
            raise
        self._answered()

    def _answered(self) -> None:
        with self._lock:
            self._answered_at = time.monotonic()
            self._failed.clear()

    def _noted(self, subject: str, error: Unavailable, began: float) -> NoPicture:
        now = time.monotonic()
        with self._lock:
            self._resting = {each: until for each, until in self._resting.items() if until > now}
            self._resting[subject] = now + _REST_S[error.fault]
            if self._answered_at < began:  # else the store answered others since
                self._failed.add(subject)
                self._rest_until = now + _STORE_REST_S
        return self._no_picture(error.detail)

    def _no_picture(self, why: str) -> NoPicture:
        if self.store_away:
            return NoPicture(f"the object store does not answer: {why}", HTTPStatus.SERVICE_UNAVAILABLE)
        return NoPicture(f"the object store fails for this object: {why}", HTTPStatus.BAD_GATEWAY)

    def warm(self) -> None:
        """Start the decoders of thumbnails before the first reader. Raises Misconfigured."""
        self._intake("thumb")

    def close(self) -> None:
        for each in self._intakes.values():
            each.close()
        if self._linking is not None:
            self._linking.close()
        self.kept.close()

    def _jpeg(self, tile: Found, size: Size) -> bytes:
        made = self._intake(size)
        held = self._fetched(made, tile)
        try:
            facts = held.facts or made.inspect(held).result()
            transform = _transform(size)
            pixels = unpadded(transform, made.decode(held, facts).result(), facts)
        except BaseException:
            made.discard(held)
            raise
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "JPEG", quality=82, optimize=size != "thumb")
        return written.getvalue()

    def _fetched(self, made: Intake, tile: Found) -> Fetched:
        """The bytes that were read; of a rendition that is gone or replaced those of the original."""
        if tile.read is not None and tile.read["bucket"] in self._settings.buckets:
            with suppress(Gone, Superseded, Rejected):
                return self._get(made, in_place(tile))
        return self._get(made, tile, tile.etag if tile.read else None)

    def _get(self, made: Intake, tile: Found, etag: str | None = None) -> Fetched:
        """An object. Raises Gone: its SHA-256, or with an etag that, is another one."""
        event = ImageEvent("page", "own", "enrich", 0, tile.bucket, tile.key, tile.version_id, etag=etag)
        job = Job(Coordinates(*_PLACE, 0, 0), Assignment(_PLACE, ""), event, original=True)
        held = made.fetch(job, limits(self._settings).max_object_bytes).result()
        if etag is None and held.sha256 != tile.sha256:
            made.discard(held)
            raise Gone("the object has other content now")
        return held

    def _intake(self, size: Size) -> Intake:
        """One for each size: a JPEG is decoded at a part of its size for a thumbnail. Made when it is needed."""
        with self._lock:
            if size not in self._intakes:
                few = {"fetch_threads": AT_ONCE, "decode_threads": 2 if size == "thumb" else 1, **_PATIENCE}
                self._intakes[size] = intake(self._settings.model_copy(update=few), [_transform(size)])
            return self._intakes[size]


def in_place(tile: Found) -> Found:
    """The picture with the place of the object that was read."""
    read = tile.read
    return tile if read is None else replace(tile, bucket=read["bucket"], key=read["key"], version_id=None)


def _transform(size: Size) -> Transform:
    return Transform(SIDES[size], "pad", interpolation="bicubic", exif_transpose=True)
