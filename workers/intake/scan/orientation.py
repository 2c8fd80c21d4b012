"""How an image is to be turned by its metadata. Read here, and by no decoder: Pillow refuses a sound image for a fault
in any tag of its EXIF, and again when it writes all tags anew for the turned image.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from workers.intake.scan.essence import EXIF_MOST

_EXIF: Final = b"Exif\0\0"
_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION: Final = 0x0112
_INTEGERS: Final = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
_INLINE: Final = 4
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """1 to 8, as EXIF counts; 1 is as it is stored, which also counts where nothing is told that can be read.

    Args:
        exif: with or without the words that it begins with in a JPEG.
        xmp: is asked where the EXIF says nothing.
    """
    told = _by_exif(exif) if len(exif) <= EXIF_MOST else None
    if told is None and len(xmp) <= EXIF_MOST and (found := _XMP.search(xmp)):
        told = int(found[1])
    return told if told is not None and 1 <= told <= 8 else 1


def _by_exif(exif: bytes) -> int | None:
    """The value of the first entry for it in the first directory; None: there is none."""
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
