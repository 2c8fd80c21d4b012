"""Small files that require much work: no honest encoder writes them."""

import struct
from collections.abc import Sequence

from tests.support import images

_ONE_CODE = bytes((1, *[0] * 15))
"""A Huffman table of a single code, one zero bit."""


def jpeg_segment(marker: int, data: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg(
    width: int,
    height: int,
    *,
    progressive: bool = False,
    sampled: Sequence[int] = (0x11, 0x11, 0x11),
    scans: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A grey JPEG with a scan for each component; every block in it is two zero bits, or one where progressive."""
    components = b"".join(bytes((number, factor, 0)) for number, factor in enumerate(sampled, 1))
    frame = struct.pack(">BHHB", 8, height, width, len(sampled)) + components
    parts = [
        b"\xff\xd8",
        extra,
        jpeg_segment(0xDB, bytes((0, *[1] * 64))),
        jpeg_segment(0xC4, b"\x00" + _ONE_CODE + b"\x00"),
        # Progressive: a run of 2**14 ended blocks, and its 14 bits. Otherwise: the block ends.
        jpeg_segment(0xC4, b"\x10" + _ONE_CODE + (b"\xe0" if progressive else b"\x00")),
        jpeg_segment(0xC2 if progressive else 0xC0, frame),
    ]
    blocks = -(-width // 8) * -(-height // 8)
    data = b"\0" * (blocks // (8 if progressive else 4) + 8)
    spectrum = b"\0\0\0" if progressive else b"\0\x3f\0"
    for number in range(1, len(sampled) + 1):
        parts += (jpeg_segment(0xDA, bytes((1, number, 0)) + spectrum), data)
    runs = b"\x7f\xfc" * (2 * (blocks >> 15) + 2)  # 0 and fourteen ones, aligned to bytes closely enough
    for _ in range((scans or len(sampled)) - len(sampled)):
        parts += (jpeg_segment(0xDA, bytes((1, 1, 0)) + b"\x01\x3f\0"), runs)
    return b"".join((*parts, b"\xff\xd9"))


def tiff(entries: Sequence[tuple[int, int, int, bytes]], data: bytes = b"", *, big: bool = False) -> bytes:
    """A TIFF of these entries (tag, type, number of values, their bytes), with `data` right behind its header."""
    inline, pointer = (8, "<Q") if big else (4, "<L")
    head = 16 if big else 8
    values, directory = bytearray(data), []
    for tag, kind, count, value in entries:
        if len(value) <= inline:
            place = value.ljust(inline, b"\0")
        else:
            place = struct.pack(pointer, head + len(values))
            values += value
        directory.append(struct.pack("<HHQ" if big else "<HHL", tag, kind, count) + place)
    at = head + len(values)
    start = b"II+\0\x08\0\0\0" + struct.pack("<Q", at) if big else b"II*\0" + struct.pack("<L", at)
    count_bytes = struct.pack("<Q" if big else "<H", len(directory))
    return b"".join((start, values, count_bytes, *directory, b"\0" * inline))


def short(tag: int, *values: int) -> tuple[int, int, int, bytes]:
    return tag, 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(tag: int, *values: int) -> tuple[int, int, int, bytes]:
    return tag, 4, len(values), struct.pack(f"<{len(values)}L", *values)


def tiff_with_strips(count: int, *extra: tuple[int, int, int, bytes], compression: int = 1) -> bytes:
    """Eight by eight grey pixels, in this many strips by its tables."""
    tags = [
        long(256, 8),
        long(257, 8),
        short(258, 8),
        short(259, compression),
        short(262, 1),
        (273, 4, count, struct.pack("<L", 8) * count),
        short(277, 1),
        long(278, 1),
        (279, 4, count, struct.pack("<L", 8) * count),
    ]
    return tiff(sorted([*tags, *extra]), bytes(64))


def png_with(*chunks: bytes) -> bytes:
    body = images.encoded(images.ramp(), "png")
    return body[:33] + b"".join(chunks) + body[33:]
