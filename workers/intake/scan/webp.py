"""The structure of a WebP: a row of chunks."""

from __future__ import annotations

import struct
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import Essence, at_most

_CHUNKS: Final = 16_384
"""A frame of an animation is one: 9 minutes at 30 frames a second."""
_HEADER: Final = 12
_A_PIXEL: Final = 14
"""Bytes a pixel that the decoder holds: two canvases, the frame that it works on, and the copy that it hands out."""


def scan_webp(body: bytes) -> Essence:
    """Count the chunks. Nothing is dropped: the decoder copies metadata as they are and inflates none."""
    chunks, at = 0, _HEADER
    while at + 8 <= len(body):
        (length,) = struct.unpack_from("<L", body, at + 4)
        at += 8 + length + length % 2
        chunks += 1
        at_most(_CHUNKS, chunks, "chunks in a WebP")
    return Essence(body, _size(body), 4 * len(body), pixel_bytes=_A_PIXEL)


def _size(body: bytes) -> tuple[int, int]:
    """The canvas, by the first chunk."""
    kind = body[_HEADER : _HEADER + 4]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", body, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8 " and body[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[20:21] == b"\x2f":
        (packed,) = struct.unpack_from("<L", body, 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    raise Rejected("decode", "broken-image", "the WebP does not begin with an image")
