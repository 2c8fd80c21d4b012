"""An object store that makes its own images, and decoders that an image of a certain width can bring down."""

import ctypes
import mmap
import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageFile

from schemas.image_event import ImageEvent
from tests.support.images import encoded
from workers.ports import Intake
from workers.types import (
    Assignment,
    Coordinates,
    DecodedImage,
    Facts,
    Fetched,
    Job,
    ObjectVersion,
    Partition,
    StoredObject,
)

GOOD: Final = 40
HANGS, SEGFAULTS, GROWS, EXITS, DIES_ONCE, FAILS = 41, 42, 43, 44, 45, 46
HEADER_SEGFAULTS, SLOW_ONCE, ABORTS_WITHOUT_MEMORY = 47, 48, 49
HEADER_HANGS, HEADER_GROWS = 50, 51
SAYS_WHY_AND_EXITS, TAKES_ITS_TIME = 52, 53
HEADERS: Final = {HEADER_SEGFAULTS: SEGFAULTS, HEADER_HANGS: HANGS, HEADER_GROWS: GROWS}
"""The pixel decoder's calls, made while a header is read."""
LARGEST: Final = 1 << 30
_EPOCHS = [Assignment(Partition("images", number), "member") for number in range(4)]
_intact = ImageFile.ImageFile.load
_intact_open = Image.open


def job(width: int, name: str = "png", shade: int = 7, partition: int = 0) -> Job:
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=f"{name}/{width}/{shade}")
    return Job(Coordinates("images", partition, 0, 0), _EPOCHS[partition], event)


def sleeping_job(seconds: float) -> Job:
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=f"sleep/{seconds}")
    return Job(Coordinates("images", 0, 0, 0), _EPOCHS[0], event)


def read(intake: Intake, wanted: Job) -> tuple[Fetched, Facts]:
    fetched = intake.fetch(wanted, LARGEST).result(30)
    return fetched, intake.inspect(fetched).result(30)


def decoding(intake: Intake, wanted: Job) -> Future[DecodedImage]:
    return intake.decode(*read(intake, wanted))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class PaintedStore:
    def get(self, bucket: str, key: str, **_: Any) -> StoredObject:
        name, *rest = key.split("/")
        if name == "sleep":
            time.sleep(float(rest[0]))
            name, rest = "png", [str(GOOD), "7"]
        width, shade = map(int, rest)
        body = encoded(Image.new("RGB", (width, 20), (shade, 0, 0)), name)
        return StoredObject(body, "etag", None, "2026-01-01T00:00:00Z")

    def head(self, bucket: str, key: str, **_: Any) -> ObjectVersion:
        return ObjectVersion("etag", None)


class Once:
    """What may happen once, in whichever child: remembered in memory that all of them share. No child can make a file.

    Args:
        folder: of the tests' own.
    """

    def __init__(self, folder: Path) -> None:
        with (folder / "once").open("a+b") as file:
            file.truncate(mmap.PAGESIZE)
            self._done = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def first(self, number: int) -> bool:
        first, self._done[number] = not self._done[number], 1
        return first

    def done(self, number: int) -> bool:
        return bool(self._done[number])


def slow_to_begin(folder: Path) -> None:
    if Once(folder).first(0):
        time.sleep(1000)


def arm(folder: Path, self_test_image_dies: bool = False) -> None:
    """Break Pillow; `folder` remembers what may happen only once."""
    once = Once(folder)

    def load(image: ImageFile.ImageFile) -> Any:
        if self_test_image_dies and image.width == 4:
            _segfault()
        strike(image.width, once)
        return _intact(image)

    def opened(*args: Any, **options: Any) -> Any:
        image = _intact_open(*args, **options)
        if image.width in HEADERS:
            strike(HEADERS[image.width], once)
        return image

    ImageFile.ImageFile.load = load  # type: ignore[method-assign, assignment]
    Image.open = opened


def strike(width: int, once: Once) -> None:
    if width == HANGS:
        time.sleep(1000)
    elif width == SEGFAULTS:
        _segfault()
    elif width == GROWS:
        bytearray(1 << 30)
    elif width == EXITS:
        os._exit(3)
    elif width == SAYS_WHY_AND_EXITS:
        os.write(2, b"a first line\n\x1b[2Jheap is corrupt\n\n")
        os._exit(3)
    elif width == FAILS:
        raise OSError("these bytes are nonsense")
    elif width == ABORTS_WITHOUT_MEMORY:
        try:
            bytearray(1 << 30)
        except MemoryError:
            os.abort()
    elif width == DIES_ONCE and once.first(width):
        os.kill(os.getpid(), signal.SIGKILL)
    elif width == TAKES_ITS_TIME:
        while not once.done(width):
            time.sleep(0.05)
    elif width == SLOW_ONCE and once.first(width):
        time.sleep(1000)


def _segfault() -> None:
    ctypes.string_at(0)
