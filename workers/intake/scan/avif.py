"""The structure of an AVIF: boxes, items, and frames before the shown one, which cost decoder time."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

from workers.intake.scan.essence import Essence, at_most
from workers.intake.scan.exif import EXIF_MOST

_BOXES: Final = 8_192
"""A still has some 30, one of 256 tiles 600; each item of a file costs the decoder two or three."""
_DEPTH: Final = 8
"""The deepest box that is read lies seven deep: moov, trak, mdia, minf, stbl."""
_ITEMS: Final = 2_048
"""A grid of 1,024 tiles with as many for its alpha. The decoder compares each with all others."""
_TABLE_BYTES: Final = 64 << 10
"""The tables that map properties to items, and items to items: ten bytes an item."""
_UNITS: Final = 65_536
"""OBUs, the packets of a bitstream, in all of a file. A still has three, a grid of 1,024 tiles with alpha 6,000."""
_MOST_FRAMES: Final = 64
"""Of one bitstream: the decoder decodes all frames before the shown one. Encoders of stills write one to four."""
_LAYERS: Final = 4
"""This many frames in each of many bitstreams are free; the rest count as if they were of one."""
_FRAMES: Final = frozenset({3, 6})
"""Types of OBUs that begin a frame: its header alone, and the whole of it."""
_CODED, _EXIF, _HIDDEN = b"av01", b"Exif", b"skip"
"""Types of items. The decoder passes over the last one."""
_EXIF_BYTES: Final = EXIF_MOST + 64
"""Of EXIF with what stands before it."""
_QUARTERS: Final = (1, 8, 3, 6)
"""Orientations, as EXIF counts, by quarters of a turn to the left."""
_IN_FILE, _IN_IDAT = 0, 1
"""Origin of an item's place: the file's start, or the start of the box `idat`."""
_CONTAINERS: Final = {
    **dict.fromkeys((b"meta", b"iref"), 4),
    **dict.fromkeys((b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl"), 0),
}
"""Boxes that hold boxes, after this many bytes of their own."""
_TABLES: Final = frozenset({b"ipma", b"pitm", b"thmb", b"auxl", b"cdsc", b"dimg", b"prem", b"altr", b"base"})


def scan_avif(body: bytes) -> Essence:
    """Count the parts that cost decoder time, and hide the EXIF.

    The decoder refuses an image for faults in its EXIF.
    """
    walk = _Walk(body)
    walk.through(0, len(body), depth=1)
    beyond = units = 0
    for stream in walk.bitstreams():
        frames = 0
        for kind in _kinds(stream):
            units += 1
            at_most(_UNITS, units, "pieces of AV1 bitstreams in an AVIF")
            frames += kind in _FRAMES
        beyond += max(0, frames - _LAYERS)
        at_most(_MOST_FRAMES, max(frames, beyond), "frames in an AVIF before the one that is shown")
    return Essence(walk.without_exif(), None, 0, exif=walk.exif())


def boxes_start(head: bytes) -> tuple[int, int, bytes | None, int | None]:
    """Width, height, EXIF and orientation in the first bytes; 0 and None: unknown.

    The boxes tell the orientation, and that in the EXIF does not count. Raises Rejected, IndexError, struct.error.
    """
    walk = _Walk(head)
    walk.through(0, len(head), depth=1)
    known, turns = any(walk.size), walk.turns or [1]
    exif = walk.exif() or (b"" if known and not walk.exif_items else None)
    return *walk.size, exif, turns[0] if known and len({*turns}) == 1 else None


def _kinds(stream: memoryview) -> Iterator[int]:
    at = 0
    while at < len(stream):
        head = stream[at]
        at += 2 if head & 4 else 1
        size = len(stream) - at
        if head & 2:
            size, at = _leb128(stream, at)
        yield head >> 3 & 15
        at += size


def _leb128(stream: memoryview, at: int) -> tuple[int, int]:
    """A number of up to eight bytes, seven bits each; its end."""
    value = 0
    for place, byte in enumerate(stream[at : at + 8]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return 0, len(stream)


class _Walk:
    """A walk through every box that the decoder makes objects of."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._boxes = 0
        self.size = 0, 0
        """Of the largest picture: its tiles and previews are smaller."""
        self.turns: list[int | None] = []
        """Orientations of pictures; None: one that is mirrored."""
        self._extents = 0
        self._coded: set[int] = set()
        self.exif_items: dict[int, int] = {}
        self._pieces: list[tuple[int, int, list[tuple[int, int]]]] = []
        self._idat = 0
        self._first_sample = 0
        self._first_size = 0
        self._samples: list[tuple[int, int]] = []

    def exif(self) -> bytes:
        """The first EXIF, from the header of its directory on."""
        view, found = memoryview(self._body), bytearray()
        for item, method, pieces in self._pieces:
            if item in self.exif_items and not found:
                base = self._idat if method == _IN_IDAT else 0
                for start, length in pieces:
                    found += view[base + start : base + start + min(length, _EXIF_BYTES - len(found))]
        return bytes(found[4 + int.from_bytes(found[:4], "big") :] or found)

    def without_exif(self) -> bytes:
        """The file with its EXIF as an item of no meaning."""
        if not self.exif_items:
            return self._body
        hidden = bytearray(self._body)
        for at in self.exif_items.values():
            hidden[at : at + 4] = _HIDDEN
        return bytes(hidden)

    def bitstreams(self) -> Iterator[memoryview]:
        """Every coded item, and each track's first sample."""
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
            yield from parts
        for start, length in self._samples:
            yield view[start : start + length]

    def through(self, at: int, end: int, depth: int) -> None:
        """All boxes from here to there. A truncated box is left to the decoder, which refuses it."""
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
        elif kind == b"ispe":
            self.size = max(self.size, struct.unpack_from(">LL", self._body, start + 4), key=math.prod)
        elif kind in (b"irot", b"imir"):
            self.turns.append(_QUARTERS[self._body[start] & 3] if kind == b"irot" else None)
        elif kind == b"iinf":
            self.through(start + (8 if self._body[start] else 6), end, depth + 1)
        elif kind == b"infe":
            form = ">LH4s" if self._body[start] > 2 else ">HH4s"
            item, _, coding = struct.unpack_from(form, self._body, start + 4)
            self._coded |= {item} if coding == _CODED else set()
            if coding == _EXIF:
                self.exif_items[item] = start + struct.calcsize(form)
        elif kind == b"iloc":
            self._locations(start)
        elif kind in _TABLES:
            at_most(_TABLE_BYTES, end - start, f"bytes in an AVIF's table {kind.decode()}")
        elif kind in (b"stco", b"co64") and any(self._body[start + 4 : start + 8]):
            (self._first_sample,) = struct.unpack_from(">L" if kind == b"stco" else ">Q", self._body, start + 8)
        elif kind == b"stsz":
            same, samples = struct.unpack_from(">LL", self._body, start + 4)
            first = int.from_bytes(self._body[start + 12 : start + 16], "big") if samples else 0
            self._first_size = same or first

    def _locations(self, start: int) -> None:
        """Places of all items: in extents, with numbers of 0, 4 or 8 bytes."""
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
            self._pieces.append((item, method, pieces))
