"""The structure of a PNG: a row of chunks."""

from __future__ import annotations

import struct
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import EXIF_MOST, Cut, Essence, at_most

_CHUNKS: Final = 65_536
"""libpng writes 8 kB of pixels into each, 2,560 in a file of 20 MiB; the thriftiest encoders known write 1 kB."""
_PALETTE_BYTES: Final = 768
_SIGNATURE: Final = 8
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel, by the colour type."""
_ORIENTED: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Texts that Pillow looks for an orientation in."""


def scan_png(body: bytes) -> Essence:
    """Keep header, palette and pixels, and what an orientation may stand in. Colour profiles and texts are dropped."""
    width, height, bits, colour = struct.unpack_from(">LLBB", body, _SIGNATURE + 8)
    cut = Cut(body)
    cut.keep(0, _SIGNATURE)
    chunks, at = 0, _SIGNATURE
    while at + 8 <= len(body):
        length, kind = struct.unpack_from(">L4s", body, at)
        chunks += 1
        at_most(_CHUNKS, chunks, "chunks in a PNG")
        end = at + 12 + length
        if chunks == 1 and kind != b"IHDR":
            raise Rejected("decode", "broken-image", "the PNG does not begin with its header")
        if chunks == 1 or _kept(body, kind, at + 8, length):
            cut.keep(at, min(end, len(body)))
        if kind == b"IEND":
            break
        at = end
    row_bytes = width * _SAMPLES.get(colour, 4) * bits // 8 + 8
    return Essence(cut.joined(), (width, height), 4 * row_bytes)


def _kept(body: bytes, kind: bytes, at: int, length: int) -> bool:
    if kind in (b"IDAT", b"IEND"):
        return True
    if kind == b"PLTE":
        return length <= _PALETTE_BYTES
    if kind in (b"iTXt", b"zTXt", b"tEXt"):
        return length <= EXIF_MOST and body.startswith(_ORIENTED, at)
    return kind == b"eXIf" and length <= EXIF_MOST
