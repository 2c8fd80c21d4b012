"""Small images made by hand: every mode, every way to be broken, and files that take a decoder long."""

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
from PIL import Image


def ramp(width: int = 40, height: int = 30) -> Image.Image:
    """A colour ramp: red to the right, green downwards, blue in between."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1)
    return Image.fromarray(np.stack([red, green, (red + green) // 2], axis=-1).astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name.upper(), **options)
    return file.getvalue()


def grey16(levels: list[int]) -> Image.Image:
    return Image.fromarray(np.tile(np.repeat(np.array(levels, dtype=np.uint16), 4), (8, 1)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes with this size in its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that is honest about its size and compresses to almost nothing: black."""
    rows = zlib.compressobj(9)
    data = rows.compress(b"\0" * (1 + (width + 7) // 8) * height) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def bmp_claiming(width: int, height: int) -> bytes:
    body = bytearray(encoded(ramp(8, 8), "bmp"))
    body[18:26] = struct.pack("<ii", width, height)
    return bytes(body)


def gif_claiming(width: int, height: int) -> bytes:
    body = bytearray(encoded(ramp(8, 8), "gif"))
    body[6:10] = struct.pack("<HH", width, height)
    return bytes(body)


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP with this size in its header (at most 16,383 a side)."""
    body = bytearray(encoded(ramp(8, 8), "webp", lossless=True))
    assert body[12:16] == b"VP8L"
    body[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(body)


def tiff_that_its_codec_complains_of(compression: str) -> bytes:
    """A TIFF with damaged pixels; of tiff_lzw and tiff_adobe_deflate, libtiff writes the reason to standard error."""
    body = bytearray(encoded(noise(64, 64), "tiff", compression=compression))
    for at in range(200, len(body) - 400, 37):
        body[at] ^= 0x5A
    return bytes(body)


def tiff_with_a_tile_of(side: int) -> bytes:
    """A grey TIFF of 16 × 16 with one tile of side × side, black, and deflated to almost nothing."""
    rows = zlib.compressobj(9)
    tile = b"".join(rows.compress(b"\0" * side) for _ in range(side)) + rows.flush()
    tags = [
        (256, 4, 16),  # width
        (257, 4, 16),  # height
        (258, 3, 8),  # bits a sample
        (259, 3, 8),  # deflate
        (262, 3, 1),  # black is zero
        (277, 3, 1),  # samples a pixel
        (322, 4, side),  # tile width
        (323, 4, side),  # tile height
        (324, 4, 8),  # the tile's offset
        (325, 4, len(tile)),  # the tile's bytes
    ]
    tile += b"\0" * (len(tile) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory


_SEQUENCE, _FRAME = 1, 6
_TWO_LAYERS: Final = 0x301
"""An operating point of two spatial layers; the second is shown."""
_LAYERED_FRAME: Final = _FRAME << 3 | 6


def avif_of_frames(side: int, frames: int) -> bytes:
    """A still with this many frames in its bitstream; the last is shown."""
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
    """A progressive JPEG of one grey, with many copies of its last scan."""
    body = encoded(Image.new("L", (side, side), 99), "jpeg", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:last] + body[last:-2] * (scans - body.count(b"\xff\xda") + 1) + body[-2:]
