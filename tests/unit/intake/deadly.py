"""An object store that makes its own pictures, and decoders that a picture of a certain width can bring down.

Both live in the child process: what is broken here, the tests' own process can't see.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageFile

from schemas.image_event import ImageEvent
from tests.unit.intake.pictures import encoded
from workers.vocabulary import Coordinates, Epoch, Job, Partition, StoredObject

GOOD: Final = 40
HANGS, SEGFAULTS, SWELLS, EXITS, DIES_ONCE, FAILS = 41, 42, 43, 44, 45, 46
HEADER_SEGFAULTS, SLOW_ONCE, ABORTS_WITHOUT_MEMORY = 47, 48, 49
_EPOCH = Epoch(Partition("images", 0), "member")
_intact = ImageFile.ImageFile.load
_intact_open = Image.open


def job(width: int, name: str = "png", shade: int = 7) -> Job:
    """A picture of this width, whose red is `shade`."""
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=f"{name}/{width}/{shade}")
    return Job(Coordinates("images", 0, 0, 0), _EPOCH, event)


def sleeping_job(seconds: float) -> Job:
    """A GET that takes so long."""
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=f"sleep/{seconds}")
    return Job(Coordinates("images", 0, 0, 0), _EPOCH, event)


def slow_store(folder: Path) -> DeadlyStore:
    """A store whose making hangs, once."""
    if first_time(folder / "made"):
        time.sleep(1000)
    return DeadlyStore(folder)


class DeadlyStore:
    """Breaks Pillow where it is made; `folder` remembers what may happen only once."""

    def __init__(self, folder: Path, canary_dies: bool = False) -> None:
        self._folder = folder
        self._canary_dies = canary_dies
        self._pictures: dict[str, bytes] = {}
        self._arm()

    def get(self, bucket: str, key: str, **_: Any) -> StoredObject:
        name, *rest = key.split("/")
        if name == "sleep":
            time.sleep(float(rest[0]))
            name, rest = "png", [str(GOOD), "7"]
        if key not in self._pictures:
            width, shade = map(int, rest)
            self._pictures[key] = encoded(Image.new("RGB", (width, 20), (shade, 0, 0)), name)
        return StoredObject(self._pictures[key], "etag", None, "2026-01-01T00:00:00Z")

    def _arm(self) -> None:
        folder, canary_dies = self._folder, self._canary_dies

        def load(image: ImageFile.ImageFile) -> Any:
            if canary_dies and image.width == 4:
                _segfault()
            strike(image.width, folder)
            return _intact(image)

        def opened(*args: Any, **options: Any) -> Any:
            image = _intact_open(*args, **options)
            if image.width == HEADER_SEGFAULTS:
                _segfault()
            return image

        ImageFile.ImageFile.load = load  # type: ignore[method-assign, assignment]
        Image.open = opened


def strike(width: int, folder: Path) -> None:
    if width == HANGS:
        time.sleep(1000)
    elif width == SEGFAULTS:
        _segfault()
    elif width == SWELLS:
        bytearray(1 << 30)
    elif width == EXITS:
        os._exit(3)
    elif width == FAILS:
        raise OSError("these bytes are nonsense")
    elif width == ABORTS_WITHOUT_MEMORY:
        try:
            bytearray(1 << 30)
        except MemoryError:
            os.abort()
    elif width == DIES_ONCE and first_time(folder / "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif width == SLOW_ONCE and first_time(folder / "slow"):
        time.sleep(1000)


def first_time(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _segfault() -> None:
    ctypes.string_at(0)
