"""Results and errors of every format's reader, and an image's orientation.

The orientation is read here and by no decoder: Pillow refuses a valid image for a fault in any tag of its EXIF, and
again when it writes all tags for the turned image.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from workers.errors import Rejected

EXIF_MOST: Final = 65_533
"""Most bytes of EXIF or XMP that are searched for the orientation: one segment of a JPEG. Cameras write no more; larger
ones hold previews."""


@dataclass(frozen=True, slots=True)
class Essence:
    """The part of a file that decides its pixels.

    Args:
        body: a file of the same format with the same first image.
        size: width and height of that image in pixels, as the decoder will return them; None: unread, since the format
            has a flat bound.
        held_bytes: most memory of the running decoder besides the stored image and `body`: coefficients, canvases,
            rows.
        pixel_bytes: addition to `held_bytes` for each pixel of the image.
        orientation: as EXIF counts, 1 to 8; 0: the decoder finds it in the metadata.
        scalable: the decoder can give the image at a half, a quarter or an eighth of its size.
    """

    body: bytes
    size: tuple[int, int] | None
    held_bytes: int
    pixel_bytes: int = 0
    scalable: bool = False
    orientation: int = 0


def whole(body: bytes) -> Essence:
    """A file of a format with a flat bound, unread."""
    return Essence(body, None, 0)


def at_most(most: int, found: int, things: str) -> None:
    """Refuse a file that has more of something than any honest one.

    Raises:
        Rejected: too-complex.
    """
    if found > most:
        raise Rejected("decode", "too-complex", f"{found} {things}, at most {most} are read")


class Cut:
    """Collects ranges of a file; adjacent ones become one."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._ranges: list[tuple[int, int]] = []

    def keep(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            start = self._ranges.pop()[0]
        self._ranges.append((start, end))

    def joined(self) -> bytes:
        """The ranges in the order of `keep`. A whole file is not copied."""
        if self._ranges == [(0, len(self._body))]:
            return self._body
        view = memoryview(self._body)
        return b"".join(view[start:end] for start, end in self._ranges)


_EXIF: Final = b"Exif\0\0"
_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION: Final = 0x0112
_INTEGERS: Final = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
_INLINE: Final = 4
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """The orientation, 1 to 8 as EXIF counts; 1 if none can be read.

    Args:
        exif: with or without the words that it begins with in a JPEG.
        xmp: is asked where the EXIF says nothing.
    """
    told = _by_exif(exif) if len(exif) <= EXIF_MOST else None
    if told is None and len(xmp) <= EXIF_MOST and (found := _XMP.search(xmp)):
        told = int(found[1])
    return told if told is not None and 1 <= told <= 8 else 1


def _by_exif(exif: bytes) -> int | None:
    """The orientation in the EXIF's first directory, or None."""
    for _ in range(2):  # some programs write the words twice
        exif = exif.removeprefix(_EXIF)
    order = _ORDERS.get(exif[:4])
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "L", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, first)
        for at in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, values, offset = struct.unpack_from(order + "HHLL", exif, at)
            if tag == _ORIENTATION and kind in _INTEGERS and values:
                form = order + _INTEGERS[kind]
                inside = values * struct.calcsize(form) <= _INLINE
                return int(struct.unpack_from(form, exif, at + 8 if inside else offset)[0])
    except struct.error:  # it ends before that
        pass
    return None
