"""The structure of a TIFF: its first directory. All others, sub-directories among them, are passed over.

The decoders are given a directory of those tags alone that decide a pixel. Its entries are the file's own, so the
values that they point to stay where they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import Essence, at_most

_ENTRIES: Final = 4_096
"""Entries of a directory. Raw photographs with the most tags known have some 200."""
_BLOCKS: Final = 65_536
"""Strips or tiles: a strip for each row of 65,536, or tiles of 32 x 32 in an image of 64 megapixels."""
_VALUES: Final = 1_024
"""Values of every other tag that is read: one, or one for each sample of a pixel, of which Pillow takes six."""
_COLOURS: Final = 3 * 65_536
"""Values of a colour map for 16 bits, the largest there is."""
_TABLE_BYTES: Final = 64 << 10
"""The JPEG tables that strips share; all that a decoder can hold at a time are 2.7 kB."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 274, 277, 278, 279, 284
_COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _JPEG_TABLES = 320, 322, 323, 324, 325, 347

_MOST_VALUES: Final = {
    # How the values are laid out and what they mean.
    **dict.fromkeys((_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES), _VALUES),
    **dict.fromkeys((_STRIP_ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT), _VALUES),
    **dict.fromkeys((266, 317, 332, 338, 339), _VALUES),  # fill order, predictor, inks, extra samples, sample format
    **dict.fromkeys((292, 293), _VALUES),  # options of the fax compressions
    **dict.fromkeys((512, 513, 514, 515, 517, 518, 519, 520, 521), _VALUES),  # JPEG of the old kind
    **dict.fromkeys((529, 530, 531, 532), _VALUES),  # YCbCr: coefficients, subsampling, positions, black and white
    **dict.fromkeys((_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES), _BLOCKS),
    _COLOUR_MAP: _COLOURS,
    _JPEG_TABLES: _TABLE_BYTES,
}
"""The tags that decide a pixel, and how many values each may have."""

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by its type."""
_INTEGERS: Final = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}

_RAW, _OLD_JPEG, _JPEG, _SGILOG, _SGILOG24, _LZMA, _ZSTD, _WEBP = 1, 6, 7, 34676, 34677, 34925, 50000, 50001
_YCBCR: Final = 6
_DICTIONARY: Final = {_LZMA: 66 << 20, _ZSTD: 16 << 20}
"""What a compression keeps of what it has unpacked: at its highest usual level."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Classic TIFF and BigTIFF differ in nothing but widths."""

    order: str
    first: int
    count: str
    entry: str
    pointer: str
    at: int

    @property
    def inline(self) -> int:
        return struct.calcsize(self.order + self.pointer)


@dataclass(frozen=True, slots=True)
class _Entry:
    raw: bytes
    type: int
    values: int
    offset: int


@dataclass(slots=True)
class _Directory:
    layout: _Layout
    body: bytes
    entries: dict[int, _Entry] = field(default_factory=dict)

    def numbers(self, tag: int, default: int) -> tuple[int, ...]:
        """A tag's integers, at most `_VALUES` of them."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _INTEGERS or not entry.values:
            return (default,)
        form = f"{self.layout.order}{min(entry.values, _VALUES)}{_INTEGERS[entry.type]}"
        return struct.unpack_from(form, self.body, entry.offset)

    def number(self, tag: int, default: int = 0) -> int:
        return self.numbers(tag, default)[0]

    def count(self, tag: int) -> int:
        return self.entries[tag].values if tag in self.entries else 0


def scan_tiff(body: bytes) -> Essence:
    """Keep of the first directory what decides a pixel."""
    directory = _read(body)
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    block_width, block_height, blocks = _blocks(directory, width, height)
    tiled = _TILE_WIDTH in directory.entries
    held = _held_bytes(directory, (width, height), block_width * block_height) + blocks * _a_block_bytes(directory)
    turned = directory.number(_ORIENTATION, 1) in (5, 6, 7, 8)
    return Essence(
        _rebuilt(directory),
        (height, width) if turned else (width, height),
        held + len(body),
        block_width * block_height if tiled else 0,
    )


def _read(body: bytes) -> _Directory:
    directory = _Directory(_layout(body), body)
    for tag, entry in _entries(directory.layout, body):
        if tag in _MOST_VALUES and tag not in directory.entries:
            at_most(_MOST_VALUES[tag], entry.values, f"values in a TIFF's tag {tag}")
            if entry.offset + entry.values * _SIZES[entry.type] > len(body):
                raise Rejected("decode", "broken-image", f"the values of the TIFF's tag {tag} lie beyond its end")
            directory.entries[tag] = entry
    return directory


def _layout(body: bytes) -> _Layout:
    order = "<" if body.startswith(b"II") else ">"
    (version,) = struct.unpack_from(order + "H", body, 2)
    if version == 43:
        return _Layout(order, struct.unpack_from(order + "Q", body, 8)[0], "Q", "HHQ", "Q", 8)
    return _Layout(order, struct.unpack_from(order + "L", body, 4)[0], "H", "HHL", "L", 4)


def _entries(layout: _Layout, body: bytes) -> Iterator[tuple[int, _Entry]]:
    """The entries of the first directory; those of an unknown type are passed over, as the decoders do."""
    if layout.first > len(body):
        raise Rejected("decode", "broken-image", "the TIFF's directory lies beyond its end")
    head, pointer = struct.Struct(layout.order + layout.entry), struct.Struct(layout.order + layout.pointer)
    (count,) = struct.unpack_from(layout.order + layout.count, body, layout.first)
    at_most(_ENTRIES, count, "entries in a TIFF's directory")
    first, size = layout.first + struct.calcsize(layout.order + layout.count), head.size + pointer.size
    for at in range(first, first + count * size, size):
        tag, kind, values = head.unpack_from(body, at)
        (value,) = pointer.unpack_from(body, at + head.size)
        if kind in _SIZES:
            inside = values * _SIZES[kind] <= pointer.size
            yield tag, _Entry(body[at : at + size], kind, values, at + head.size if inside else value)


def _blocks(directory: _Directory, width: int, height: int) -> tuple[int, int, int]:
    """Width, height and number of strips or tiles: stated, or implied by the sizes."""
    planes = directory.number(_SAMPLES, 1) if directory.number(_PLANAR, 1) == 2 else 1
    if _TILE_WIDTH in directory.entries:
        across, down = directory.number(_TILE_WIDTH), directory.number(_TILE_HEIGHT)
        implied = -(-width // max(1, across)) * -(-height // max(1, down)) * planes
        listed = max(directory.count(_TILE_OFFSETS), directory.count(_TILE_BYTES))
    else:
        across, down = width, min(height, directory.number(_STRIP_ROWS, height)) or height
        implied = -(-height // max(1, down)) * planes
        listed = max(directory.count(_STRIP_OFFSETS), directory.count(_STRIP_BYTES))
    at_most(_BLOCKS, implied, "strips or tiles in a TIFF")
    return across, down, max(implied, listed)


def _held_bytes(directory: _Directory, size: tuple[int, int], pixels: int) -> int:
    """Bytes of an unpacked strip or tile, its codec, and a turn."""
    compression = directory.number(_COMPRESSION, 1)
    samples = directory.number(_SAMPLES, 1)
    bits = directory.numbers(_BITS, 1)
    pixel_bits = sum(bits) if len(bits) >= samples else max(bits) * samples
    row_bytes = size[0] * pixel_bits // 8 + 8
    held = 4 * row_bytes if compression == _RAW else -(-pixels * pixel_bits // 8) + row_bytes
    if directory.number(_PHOTOMETRIC) == _YCBCR or compression == _OLD_JPEG:
        held += 4 * pixels
    if compression in (_JPEG, _OLD_JPEG):  # its coefficients, if it comes in several scans, and its rows
        held += 2 * samples * pixels + 192 * samples * size[0]
    elif compression in (_SGILOG, _SGILOG24, _WEBP):
        held += 8 * pixels
    turning = 4 * size[0] * size[1] if directory.number(_ORIENTATION, 1) != 1 else 0
    return max(held + _DICTIONARY.get(compression, 0), turning)


def _a_block_bytes(directory: _Directory) -> int:
    """What each strip or tile costs to be listed: Pillow unpacks those that are not compressed, libtiff the others."""
    return 512 if directory.number(_COMPRESSION, 1) == _RAW else 128


def _rebuilt(directory: _Directory) -> bytes:
    layout, body = directory.layout, directory.body
    end = len(body) + len(body) % 2
    head = body[: layout.at] + struct.pack(layout.order + layout.pointer, end)
    count = struct.pack(layout.order + layout.count, len(directory.entries))
    entries = b"".join(directory.entries[tag].raw for tag in sorted(directory.entries))
    none_follows = b"\0" * layout.inline
    padding = b"\0" * (end - len(body))
    return b"".join((head, memoryview(body)[len(head) :], padding, count, entries, none_follows))
