"""The structure of PNG, WebP, GIF and BMP: rows of chunks or blocks, or a header of fixed size."""

from __future__ import annotations

import re
import struct
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import Cut, Essence, at_most
from workers.intake.scan.exif import EXIF_MOST

_PNG_CHUNKS: Final = 65_536
"""libpng writes 8 kB of pixels into each, 2,560 in a file of 20 MiB; the thriftiest encoders known write 1 kB."""
_PALETTE_BYTES: Final = 768
_SIGNATURE: Final = 8
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel, by the colour type."""
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_TEXTS: Final = frozenset({b"iTXt", b"zTXt", b"tEXt"})


def scan_png(body: bytes) -> Essence:
    """Keep header, palette, pixels, EXIF and XMP. Colour profiles and other texts are dropped."""
    width, height, bits, colour = struct.unpack_from(">LLBB", body, _SIGNATURE + 8)
    cut = Cut(body)
    cut.keep(0, _SIGNATURE)
    chunks, at, exif = 0, _SIGNATURE, b""
    while at + 8 <= len(body):
        length, kind = struct.unpack_from(">L4s", body, at)
        chunks += 1
        at_most(_PNG_CHUNKS, chunks, "chunks in a PNG")
        end = at + 12 + length
        if chunks == 1 and kind != b"IHDR":
            raise Rejected("decode", "broken-image", "the PNG does not begin with its header")
        if chunks == 1 or _is_kept(body, kind, at + 8, length):
            cut.keep(at, min(end, len(body)))
        elif length > EXIF_MOST and (kind == b"eXIf" or (kind in _TEXTS and body.startswith(_EXIF_TEXT, at + 8))):
            exif = body[at + 8 : at + 9 + EXIF_MOST]  # so much that nothing more is looked at
        if kind == b"IEND":
            break
        at = end
    row_bytes = width * _SAMPLES.get(colour, 4) * bits // 8 + 8
    return Essence(cut.joined(), (width, height), 4 * row_bytes, exif=exif)


def _is_kept(body: bytes, kind: bytes, at: int, length: int) -> bool:
    if kind in (b"IDAT", b"IEND"):
        return True
    if kind == b"PLTE":
        return length <= _PALETTE_BYTES
    if kind in _TEXTS:
        return length <= EXIF_MOST and body.startswith((_EXIF_TEXT, _XMP_TEXT), at)
    return kind == b"eXIf" and length <= EXIF_MOST


_WEBP_CHUNKS: Final = 16_384
"""A frame of an animation is one: 9 minutes at 30 frames a second."""
_RIFF_HEADER: Final = 12
_A_PIXEL: Final = 14
"""Bytes a pixel that the decoder holds: two canvases, the frame that it works on, and the copy that it hands out."""


def scan_webp(body: bytes) -> Essence:
    """Count the chunks. Nothing is dropped: the decoder copies metadata as they are and inflates none."""
    chunks, at = 0, _RIFF_HEADER
    while at + 8 <= len(body):
        (length,) = struct.unpack_from("<L", body, at + 4)
        at += 8 + length + length % 2
        chunks += 1
        at_most(_WEBP_CHUNKS, chunks, "chunks in a WebP")
    return Essence(body, _canvas(body), 4 * len(body), pixel_bytes=_A_PIXEL)


def _canvas(body: bytes) -> tuple[int, int]:
    """The canvas, by the first chunk."""
    kind = body[_RIFF_HEADER : _RIFF_HEADER + 4]
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


_PIECES: Final = 65_536
"""Blocks and their parts before the first image. A part has up to 255 bytes, so that is room for 16 MB of texts."""
_GIF_HEADER: Final = 13
_BLOCK: Final = re.compile(rb"[!,;]")
_CONTROL: Final = 0xF9


def scan_gif(body: bytes) -> Essence:
    """Keep the palette, the first image, its control block and the rest."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    at = _GIF_HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the palette
    cut = Cut(body)
    cut.keep(0, at)
    image, control = _first_image(body, at)
    if control is not None:
        cut.keep(*control)
    left, top, across, down = struct.unpack_from("<HHHH", body, image + 1)
    cut.keep(image, len(body))
    size = max(width, left + across), max(height, top + down)
    # In addition to the image: the later content of its place, and a row.
    return Essence(cut.joined(), size, across * down + 4 * size[0])


def _first_image(body: bytes, at: int) -> tuple[int, tuple[int, int] | None]:
    """Offset of the first image; start and end of its control block."""
    pieces = 0
    control: tuple[int, int] | None = None
    while found := _BLOCK.search(body, at):
        start = found.start()
        if body[start] == ord(","):
            return start, control
        if body[start] == ord(";"):
            break
        at = start + 2
        while length := body[at]:
            at += 1 + length
            pieces += 1
            at_most(_PIECES, pieces, "pieces before a GIF's first image")
        at += 1
        pieces += 1
        at_most(_PIECES, pieces, "pieces before a GIF's first image")
        if body[start + 1] == _CONTROL:
            control = start, at
    raise Rejected("decode", "broken-image", "the GIF has no image")


_RUN_LENGTHS = (1, 2)
_A_PIXEL_OF_A_RUN = 10
"""Run lengths are unpacked in Python, into a growing array that is then copied and still held afterwards."""


def scan_bmp(body: bytes) -> Essence:
    """Keep the whole file: nothing in it is optional, and nothing repeats."""
    (header_size,) = struct.unpack_from("<L", body, 14)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", body, 18)
        return Essence(body, (width, height), 2 * _row_bytes(width, bits))
    width, height, _, bits, compression = struct.unpack_from("<llHHL", body, 18)
    width, height = width % 2**32, abs(height)
    unpacked = _A_PIXEL_OF_A_RUN if compression in _RUN_LENGTHS else 0
    return Essence(body, (width, height), 2 * _row_bytes(width, bits), pixel_bytes=unpacked)


def _row_bytes(width: int, bits: int) -> int:
    return width * bits // 8 + 8
