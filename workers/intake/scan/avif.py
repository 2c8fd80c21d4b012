"""The structure of an AVIF: boxes in boxes."""

from __future__ import annotations

import re
import struct
from typing import Final

from workers.intake.scan.essence import Essence, at_most

_BOXES: Final = 8_192
"""A still has some 30, one of 256 tiles 600; each item of a file costs the decoder two or three."""
_DEPTH: Final = 8
"""The deepest box that is read lies seven deep: moov, trak, mdia, minf, stbl."""
_ITEMS: Final = 2_048
"""A grid of 1,024 tiles with as many for its alpha. The decoder compares each with all others."""
_SAMPLES: Final = 65_536
"""Frames of a sequence, and entries of the tables that say where they are: 36 minutes at 30 frames a second."""
_TABLE_BYTES: Final = 64 << 10
"""The tables of which properties belong to which items, and which items to which: ten bytes an item."""
_EXIF_BYTES: Final = 1 << 20
"""EXIF or XMP. The decoder reads its orientation before anybody can ask for less."""
_METADATA: Final = frozenset({b"Exif", b"mime"})
_CONFIGURATION: Final = re.compile(b"av1C")
"""The box that says how deep the samples are, in the high bits of its third byte."""
_UNIT: Final = 128
"""A side of the largest superblock of AV1."""
_A_PIXEL, _A_DEEP_PIXEL = 10, 20
"""Bytes a pixel that the decoder holds: its planes, those of its codec, and eight bits of each channel."""

_CONTAINERS: Final = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"iref": 4,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}
"""Boxes that hold boxes, after so many bytes of their own."""
_TABLES: Final = frozenset({b"ipma", b"pitm", b"thmb", b"auxl", b"cdsc", b"dimg", b"prem", b"altr", b"base"})
_SAMPLE_TABLES: Final = {b"stsz": 8, b"stts": 4, b"stsc": 4, b"stco": 4, b"co64": 4, b"stss": 4, b"elst": 4}
"""Where in them the number of their entries stands."""


def scan_avif(body: bytes) -> Essence:
    """Count what the decoder would make objects of. The size in pixels is left to it: it reads that from tables."""
    walk = _Walk(body)
    walk.through(0, len(body), depth=1)
    for item in walk.metadata & walk.lengths.keys():
        at_most(_EXIF_BYTES, walk.lengths[item], "bytes of metadata in one item of an AVIF")
    deep = any(body[found.end() + 2 : found.end() + 3] > b"\x3f" for found in _CONFIGURATION.finditer(body))
    return Essence(body, None, 4 * len(body), pixel_bytes=_A_DEEP_PIXEL if deep else _A_PIXEL, unit=_UNIT)


class _Walk:
    """A walk through every box that the decoder makes objects of."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._boxes = 0
        self._extents = 0
        self.metadata: set[int] = set()
        self.lengths: dict[int, int] = {}

    def through(self, at: int, end: int, depth: int) -> None:
        """All boxes from here to there. What is cut is left to the decoder, which refuses it."""
        at_most(_DEPTH, depth, "boxes in one another in an AVIF")
        while at + 8 <= end:
            size, kind = struct.unpack_from(">L4s", self._body, at)
            head = 8
            if size == 1:
                (size,), head = struct.unpack_from(">Q", self._body, at + 8), 16
            size = size or end - at
            if size < head or at + size > end:
                return
            self._boxes += 1
            at_most(_BOXES, self._boxes, "boxes in an AVIF")
            self._into(kind, at + head, at + size, depth)
            at += size

    def _into(self, kind: bytes, start: int, end: int, depth: int) -> None:
        if kind in _CONTAINERS:
            self.through(start + _CONTAINERS[kind], end, depth + 1)
        elif kind == b"iinf":
            self._items(start, end, depth)
        elif kind == b"infe":
            self._item(start)
        elif kind == b"iloc":
            self._locations(start)
        elif kind in _TABLES:
            at_most(_TABLE_BYTES, end - start, f"bytes in an AVIF's table {kind.decode()}")
        elif kind in _SAMPLE_TABLES:
            (entries,) = struct.unpack_from(">L", self._body, start + _SAMPLE_TABLES[kind])
            at_most(_SAMPLES, entries, f"entries in an AVIF's table {kind.decode()}")

    def _items(self, start: int, end: int, depth: int) -> None:
        form = ">L" if self._body[start] else ">H"
        (count,) = struct.unpack_from(form, self._body, start + 4)
        at_most(_ITEMS, count, "items in an AVIF")
        self.through(start + 4 + struct.calcsize(form), end, depth + 1)

    def _item(self, start: int) -> None:
        item, _, kind = struct.unpack_from(">LH4s" if self._body[start] > 2 else ">HH4s", self._body, start + 4)
        if kind in _METADATA:
            self.metadata.add(item)

    def _locations(self, start: int) -> None:
        """Where every item lies: in extents, whose numbers have widths of 0, 4 or 8 bytes."""
        version, sizes, more = struct.unpack_from(">B3xBB", self._body, start)
        offset, length, base, index = sizes >> 4, sizes & 15, more >> 4, (more & 15) if version else 0
        wide = version > 1
        (count,) = struct.unpack_from(">L" if wide else ">H", self._body, start + 6)
        at_most(_ITEMS, count, "items in an AVIF")
        at = start + (10 if wide else 8)
        for _ in range(count):
            (item,) = struct.unpack_from(">L" if wide else ">H", self._body, at)
            at += (4 if wide else 2) + (2 if version else 0) + 2 + base
            (extents,) = struct.unpack_from(">H", self._body, at)
            self._extents += extents
            at_most(_ITEMS, self._extents, "pieces of items in an AVIF")
            at += 2
            for _ in range(extents):
                at += index + offset + length
                taken = int.from_bytes(self._body[at - length : at], "big")
                self.lengths[item] = self.lengths.get(item, 0) + taken
