"""Thumbnails and views: by the intake's decoders, kept on disk by content."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from PIL import Image

from schemas.image_event import ImageEvent
from tagstream_index.page.finding import Tile
from tagstream_index.settings import IndexSettings
from workers.cli.decoders import intake, limits
from workers.cli.tag_files import unpadded
from workers.errors import BucketGone, Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.ports import Intake
from workers.types import Assignment, Coordinates, Job, Partition, Transform

Size: TypeAlias = Literal["thumb", "view"]

SIDES: Final[Mapping[Size, int]] = {"thumb": 480, "view": 1600}
"""Pixels of the longer side, at most."""
AT_ONCE: Final = 4
"""Pictures that are made at the same time."""
KEPT_S: Final = 24 * 3600.0
"""A file is made anew after a day, so that no removed picture stays longer."""
_STORE_REST_S: Final = 3.0
"""After a failure the store is left alone for so long: a page asks for a hundred pictures."""
_PATIENCE: Final = {"get_timeout_s": 10.0, "retry_s": 1.0}
"""A person looks at the page meanwhile."""
_SWEEP: Final = 200
"""Files are counted after so many new ones."""
_PLACE: Final = Partition("page", 0)


class NoPicture(Exception):
    """There is no picture to show; `away`: for now, because the store does not answer."""

    def __init__(self, why: str, *, away: bool = False) -> None:
        super().__init__(why)
        self.away = away


class Pictures:
    """Makes JPEGs of objects, and keeps them. Thread-safe.

    Args:
        folder: of the kept files; only ours are touched.
        most_bytes: of all files together; the longest unused go first.
    """

    def __init__(self, settings: IndexSettings, folder: Path, most_bytes: int) -> None:
        self._settings = settings
        self._folder = folder
        self._most_bytes = most_bytes
        self._intakes: dict[Size, Intake] = {}
        self._lock = threading.Lock()
        self._new = 0
        self._failed_at = -_STORE_REST_S
        folder.mkdir(parents=True, exist_ok=True)
        self.sweep()

    @property
    def store_away(self) -> bool:
        """Whether the store failed in the last seconds."""
        return time.monotonic() - self._failed_at < _STORE_REST_S

    def kept(self, tile: Tile, size: Size) -> Path | None:
        """The file of a picture, if it is there."""
        path = self._path(tile.sha256, size)
        try:
            if time.time() - path.stat().st_mtime > KEPT_S:
                return None
            os.utime(path, (time.time(), path.stat().st_mtime))
        except OSError:
            return None
        return path

    def make(self, tile: Tile, size: Size) -> Path:
        """Fetch, decode and shrink a picture; `AT_ONCE` threads may call.

        Raises:
            NoPicture: its bucket is not configured, or there is no such object any more, or it can't be decoded, or the
                store is away.
        """
        if tile.bucket not in self._settings.buckets:
            raise NoPicture("the bucket is not among TAGSTREAM_BUCKETS")
        if found := self.kept(tile, size):
            return found
        if self.store_away:
            raise NoPicture("the object store does not answer", away=True)
        try:
            return self._write(self._path(tile.sha256, size), self._jpeg(tile, size))
        except BucketGone as error:
            raise NoPicture("the store has no such bucket") from error
        except Unavailable as error:
            if error.fault not in ("service", "too-slow"):
                raise NoPicture(f"the object store refuses it: {error.detail}") from error
            self._failed_at = time.monotonic()
            raise NoPicture(f"the object store does not answer: {error.detail}", away=True) from error
        except (Gone, Superseded) as error:
            raise NoPicture("the object is not in the store any more") from error
        except (Rejected, LargerThanReserved) as error:
            raise NoPicture("the picture can't be decoded") from error

    def warm(self) -> None:
        """Start the decoders of thumbnails before the first reader. Raises Misconfigured."""
        self._intake("thumb")

    def sweep(self) -> None:
        """Remove old files; beyond the limit the longest unused too."""
        files = []
        for path in self._folder.glob("*/*.jpg"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_atime, found.st_size, time.time() - found.st_mtime > KEPT_S, path))
        total = 0
        for _, size, old, path in sorted(files, reverse=True):
            total += size
            if old or total > self._most_bytes:
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        for each in self._intakes.values():
            each.close()

    def _path(self, sha256: str, size: Size) -> Path:
        name = hashlib.sha256(sha256.encode()).hexdigest()  # whatever an outcome said, it is no path
        return self._folder / name[:2] / f"{name[2:]}-{SIDES[size]}.jpg"

    def _jpeg(self, tile: Tile, size: Size) -> bytes:
        made = self._intake(size)
        event = ImageEvent(
            id="page",
            dialect="own",
            action="enrich",
            index=0,
            bucket=tile.bucket,
            key=tile.key,
            version_id=tile.version_id,
        )
        job = Job(Coordinates(*_PLACE, 0, 0), Assignment(_PLACE, ""), event)
        held = made.fetch(job, limits(self._settings).max_object_bytes).result()
        try:
            if held.sha256 != tile.sha256:
                raise Gone("the object has other content now")
            facts = held.facts or made.inspect(held).result()
            transform = _transform(size)
            pixels = unpadded(transform, made.decode(held, facts).result(), facts)
        except BaseException:
            made.discard(held)
            raise
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "JPEG", quality=82, optimize=size == "view")
        return written.getvalue()

    def _intake(self, size: Size) -> Intake:
        """One for each size: a JPEG is decoded at a part of its size for a thumbnail. Made when it is needed."""
        with self._lock:
            if size not in self._intakes:
                few = {"fetch_threads": AT_ONCE, "decode_threads": 2 if size == "thumb" else 1, **_PATIENCE}
                self._intakes[size] = intake(self._settings.model_copy(update=few), [_transform(size)])
            return self._intakes[size]

    def _write(self, path: Path, jpeg: bytes) -> Path:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(jpeg)
        os.replace(file.name, path)
        with self._lock:
            self._new += 1
            due = self._new % _SWEEP == 0
        if due:
            self.sweep()
        return path


def _transform(size: Size) -> Transform:
    return Transform(SIDES[size], "pad", interpolation="bicubic", exif_transpose=True)
