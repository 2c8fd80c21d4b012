"""Reads what an original's first bytes tell, without a decoder.

Python alone looks at them, as in `Decoding.glance`: no decoder may see a byte in this process. What they tell is for
people, except the shape, and no pixel depends on it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Final, NamedTuple

from workers.errors import Rejected
from workers.intake.header import sniff
from workers.intake.limits import blame
from workers.intake.scan import boxes_start, jpeg_start, orientation_of, read_exif, scan
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


class _Start(NamedTuple):
    width: int = 0
    height: int = 0
    exif: bytes | None = None
    orientation: int | None = None


def read_first_bytes(head: bytes, mode: FactsMode) -> FirstBytes:
    """Read size and EXIF, as far as they are in these bytes. Never raises."""
    name, start = sniff(head) or "", _Start()
    with suppress(Rejected), blame():
        start = _start(head[:FIRST_BYTES], name)
    turned = None if start.orientation is None else start.orientation > 4
    told = None if start.exif is None else _told(start.exif, start.orientation, name, mode)
    if min(start.width, start.height) > 0 and max(start.width, start.height) <= _LONGEST:
        return FirstBytes(name, start.width, start.height, turned, told)
    return FirstBytes(turned=turned, told=told)


def _told(exif: bytes, orientation: int | None, name: str, mode: FactsMode) -> PictureFacts | None:
    if mode == "off":
        return None
    found = read_exif(exif, place=mode == "place", tiff=name == "tiff")
    if found.missing and name != "jpeg":  # it may lie behind these bytes
        return None
    return PictureFacts(found.taken_at, orientation, place=found.place, missing=found.missing)


def _start(head: bytes, name: str) -> _Start:
    """Size, EXIF and orientation. Raises what readers of formats raise."""
    if name == "jpeg":
        width, height, exif, xmp = jpeg_start(head)
        return _Start(width, height, exif, None if exif is None else orientation_of(exif, xmp))
    if name in ("avif", "heic"):
        return _Start(*boxes_start(head))
    if name == "tiff":  # or a camera's raw file, whose first directory is of a preview
        return _Start(exif=head)
    if name not in ("png", "webp", "gif", "bmp"):
        return _Start()
    size = scan(head, name).size or (0, 0)
    exif = b""
    if name == "png":
        exif = _png_exif(head)
    elif name == "webp" and head[12:16] == b"VP8X" and head[20] & _EXIF_OR_XMP:
        exif = None
    return _Start(*size, exif, None if exif is None else orientation_of(exif, b""))


def _png_exif(head: bytes) -> bytes | None:
    before, pixels, _ = head.partition(b"IDAT")
    at = before.find(b"eXIf")
    if at > 4:
        (length,) = struct.unpack_from(">L", before, at - 4)
        return before[at + 4 : at + 4 + length]
    return b"" if pixels and b"Raw profile type" not in before and b"XML:com.adobe" not in before else None
