"""Small files that take a decoder long: an AVIF of frames that are not shown, a JPEG of many scans."""

from __future__ import annotations

import struct
from typing import Final

from PIL import Image

from tests.support.images import encoded

_SEQUENCE, _FRAME = 1, 6
_TWO_LAYERS: Final = 0x301
"""An operating point of two spatial layers, of which the second is shown."""
_LAYERED_FRAME: Final = _FRAME << 3 | 6


def avif_of_frames(side: int, frames: int) -> bytes:
    """A still whose bitstream has so many frames in all; the last is shown."""
    red, green = (Image.new("RGB", (side, side), colour) for colour in ((200, 10, 10), (10, 200, 10)))
    still = encoded(red, "avif", speed=10)
    units = _units(encoded(red, "avif", speed=10, save_all=True, append_images=[green]))
    sequence, frame = units[_SEQUENCE], units[_FRAME]
    layers = int.from_bytes(sequence, "big") | _TWO_LAYERS << 8 * len(sequence) - 24
    sequence = layers.to_bytes(len(sequence), "big")
    below, shown = (bytes([_LAYERED_FRAME, layer << 3]) + _leb128(len(frame)) + frame for layer in (0, 1))
    stream = b"\x12\0\x0a" + _leb128(len(sequence)) + sequence + below * (frames - 1) + shown
    start = still.index(b"mdat") + 4
    head, before = still[:start], len(still) - start
    for old, new in ((before, len(stream)), (before + 8, len(stream) + 8)):  # in `iloc`, and of `mdat` itself
        assert head.count(struct.pack(">L", old)) == 1
        head = head.replace(struct.pack(">L", old), struct.pack(">L", new))
    return head + stream


def _units(film: bytes) -> dict[int, bytes]:
    """The first frame of a sequence of images, and the header before it, by type."""
    found: dict[int, bytes] = {}
    at = film.index(b"mdat") + 4
    while _FRAME not in found:
        kind, size, shift = film[at] >> 3 & 15, 0, 0
        while True:
            at += 1
            size |= (film[at] & 127) << shift
            shift += 7
            if film[at] < 128:
                break
        found[kind] = film[at + 1 : at + 1 + size]
        at += 1 + size
    return found


def _leb128(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _leb128(number >> 7)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one grey, whose last scan comes again and again."""
    body = encoded(Image.new("L", (side, side), 99), "jpeg", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:last] + body[last:-2] * (scans - body.count(b"\xff\xda") + 1) + body[-2:]
