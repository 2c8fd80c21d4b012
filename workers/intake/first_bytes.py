"""Reads what an original's first bytes tell, without a decoder.

Python alone looks at them, as in `Decoding.glance`: no decoder may see a byte in this process. What they tell is for
people, except the shape, and no pixel depends on it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

from workers.errors import Rejected
from workers.intake.header import sniff
from workers.intake.limits import blame
from workers.intake.scan import read_exif, scan
from workers.intake.scan.avif import boxes_start
from workers.intake.scan.jpeg import jpeg_start
from workers.types import FactsMode, PictureFacts

FIRST_BYTES: Final = 64 << 10
_LONGEST: Final = 1_000_000
"""Pixels of a side; a header that says more lies."""
_EXIF_OR_XMP: Final = 0x0C
"""Flags of a WebP that has them behind its pixels."""


class FirstBytes(NamedTuple):
    """What an image's first bytes tell.

    Args:
        format: as `sniff` has it; empty where the size is unknown.
        width, height: as stored; 0: unknown.
        turned: whether the upright image is as wide as the stored one is high; None: unknown.
        told: the facts of its EXIF, which has no hashes; None: unknown, or not wanted.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    turned: bool | None = None
    told: PictureFacts | None = None

    def shapes_of(self, rendition: FirstBytes) -> tuple[float, ...]:
        """What width / height of the image's rendition may be; empty: anything."""
        if not self.width:
            return ()
        shape = self.width / self.height
        if self.turned is None or rendition.turned is None:
            return shape, 1 / shape
        return (shape,) if self.turned == rendition.turned else (1 / shape,)


def read_first_bytes(head: bytes, mode: FactsMode) -> FirstBytes:
    """Read size and EXIF, as far as they are in these bytes. Never raises."""
    name = sniff(head) or ""
    width, height, exif, orientation = 0, 0, None, None
    with suppress(Rejected), blame():
        width, height, exif, orientation = _start(head[:FIRST_BYTES], name)
    turned, told = None if orientation is None else orientation > 4, None
    if exif is not None and mode != "off":
        found = read_exif(exif, place=mode == "place", tiff=name == "tiff")
        if not found.missing or name == "jpeg":  # of others it may lie behind these bytes
            told = replace(found, orientation=orientation)
    if min(width, height) > 0 and max(width, height) <= _LONGEST:
        return FirstBytes(name, width, height, turned, told)
    return FirstBytes(turned=turned, told=told)


def _start(head: bytes, name: str) -> tuple[int, int, bytes | None, int | None]:
    """Width, height, EXIF and orientation. Raises what readers of formats raise."""
    if name == "jpeg":
        return jpeg_start(head)
    if name in ("avif", "heic"):
        return boxes_start(head)
    if name == "tiff":  # or a camera's raw file, whose first directory is of a preview
        return 0, 0, head, None
    size = scan(head, name).size or (0, 0)
    before, pixels, _ = head.partition(b"IDAT")
    if name == "png":
        behind = not pixels or any(word in before for word in (b"eXIf", b"Raw profile type", b"XML:com.adobe"))
    else:
        behind = name == "webp" and head[12:16] == b"VP8X" and bool(head[20] & _EXIF_OR_XMP)
    return *size, *((None, None) if behind else (b"", 1))
