"""The structure of an AVIF: boxes in boxes, and in them the bitstreams that AV1's decoder will see."""

from __future__ import annotations

import struct
from typing import Final

from workers.intake.scan.av1 import FrameSizes
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
"""EXIF or XMP. The decoder reads its orientation before a caller can ask for less."""
_METADATA: Final = frozenset({b"Exif", b"mime"})
_CODED: Final = b"av01"
_IN_FILE, _IN_IDAT = 0, 1
"""How the place of an item is counted: from the file's start, or from that of the box `idat`."""
_UNIT: Final = 128
"""A side of the largest superblock of AV1."""
_A_PIXEL, _A_DEEP_PIXEL = 10, 20
"""Bytes a pixel that the decoder holds: its planes, those of its codec, and eight bits of each channel."""
_REFERENCE, _DEEP_REFERENCE = 3, 6
"""Bytes a pixel of each frame that the codec keeps for those after it, and how many it keeps."""
_REFERENCES: Final = 8

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
    """Count the objects and frame memory that decoder and codec will allocate.

    The size in pixels is left to the decoder, which reads it from tables. The codec knows nothing of that size: it
    makes room for the frames of the bitstream, which may be larger, and are scaled to the image's size afterwards.
    """
    walk = _Walk(body)
    walk.through(0, len(body), depth=1)
    for item in walk.metadata & walk.lengths.keys():
        at_most(_EXIF_BYTES, walk.lengths[item], "bytes of metadata in one item of an AVIF")
    sizes = walk.frame_sizes()
    width, height = sizes.sides
    deep = sizes.deep or not width  # where no frame was found, the worst is taken for true
    kept = min(max(sizes.frames - 1, 0), _REFERENCES)
    return Essence(
        body,
        None,
        4 * len(body),
        block_pixels=width * height,
        frame=sizes.sides,
        pixel_bytes=_A_DEEP_PIXEL + kept * _DEEP_REFERENCE if deep else _A_PIXEL + kept * _REFERENCE,
        unit=_UNIT,
    )


class _Walk:
    """A walk through every box that the decoder makes objects of."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._boxes = 0
        self._extents = 0
        self._coded: set[int] = set()
        self._pieces: list[tuple[int, int, list[tuple[int, int]]]] = []
        self._idat = 0
        self._first_sample = 0
        self._first_size = 0
        self._samples: list[tuple[int, int]] = []
        self.metadata: set[int] = set()
        self.lengths: dict[int, int] = {}

    def frame_sizes(self) -> FrameSizes:
        """Frame sizes in every coded item and in each track's first sample."""
        sizes = FrameSizes()
        view = memoryview(self._body)
        joined = 0
        for item, method, pieces in self._pieces:
            if item not in self._coded or method not in (_IN_FILE, _IN_IDAT):
                continue
            base = self._idat if method == _IN_IDAT else 0
            parts = [view[base + start : base + start + length] for start, length in pieces]
            if len(parts) > 1:
                joined += sum(map(len, parts))
                at_most(2 * len(self._body), joined, "bytes in an AVIF's items of several pieces")
                parts = [memoryview(b"".join(parts))]
            for part in parts:
                sizes.add(part)
        for start, length in self._samples:
            sizes.add(view[start : start + length])
        return sizes

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
            if kind == b"stbl":
                self._samples.append((self._first_sample, self._first_size))
        elif kind == b"idat":
            self._idat = start
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
            if entries:
                self._sample(kind, start)

    def _items(self, start: int, end: int, depth: int) -> None:
        form = ">L" if self._body[start] else ">H"
        (count,) = struct.unpack_from(form, self._body, start + 4)
        at_most(_ITEMS, count, "items in an AVIF")
        self.through(start + 4 + struct.calcsize(form), end, depth + 1)

    def _item(self, start: int) -> None:
        item, _, kind = struct.unpack_from(">LH4s" if self._body[start] > 2 else ">HH4s", self._body, start + 4)
        if kind in _METADATA:
            self.metadata.add(item)
        elif kind == _CODED:
            self._coded.add(item)

    def _sample(self, kind: bytes, start: int) -> None:
        """Read offset and length of a track's first sample from two tables."""
        if kind in (b"stco", b"co64"):
            (self._first_sample,) = struct.unpack_from(">L" if kind == b"stco" else ">Q", self._body, start + 8)
        elif kind == b"stsz":
            same, _, first = struct.unpack_from(">LLL", self._body, start + 4)
            self._first_size = same or first

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
            at += 4 if wide else 2
            method = self._body[at + 1] & 15 if version else _IN_FILE
            at += (2 if version else 0) + 2 + base
            start = int.from_bytes(self._body[at - base : at], "big")
            (extents,) = struct.unpack_from(">H", self._body, at)
            self._extents += extents
            at_most(_ITEMS, self._extents, "pieces of items in an AVIF")
            at += 2
            pieces = []
            for _ in range(extents):
                at += index + offset + length
                taken = int.from_bytes(self._body[at - length : at], "big")
                within = int.from_bytes(self._body[at - length - offset : at - length], "big")
                pieces.append((start + within, taken))
                self.lengths[item] = self.lengths.get(item, 0) + taken
            self._pieces.append((item, method, pieces))
