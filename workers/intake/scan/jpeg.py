"""The structure of a JPEG: segments, then scans."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import Cut, Essence, at_most
from workers.intake.scan.exif import EXIF_MOST, orientation_of

_SEGMENTS: Final = 4_096
"""An ICC profile may have 255, a file of 20 MiB with full segments alone 320; a progressive file has about three for
each of its scans: 10 as libjpeg writes it and some 20 at most by optimizers."""
_SCANS: Final = 100
"""libtiff allows the JPEGs inside a TIFF as many, and nothing needs more: three components, each in two spectral bands
and all bits of precision one by one, make some 80."""
_TABLE_BYTES: Final = 64 << 10
"""Quantization and Huffman tables before the first scan. A decoder can hold 2.7 kB of them at a time."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The next marker that is not a stuffed byte and not a restart; earlier bytes belong to no segment."""
_TEM, _SOI, _EOI, _SOS, _APP0, _APP1, _ADOBE = 0x01, 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCALABLE: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Frames of blocks that libjpeg decodes. A lossless one has no scaled form, but Pillow does not check: it makes room
for the scaled image and takes any result."""
_BITS: Final = 8
"""Of a sample: libjpeg is built for no other."""
_COLOURS: Final = frozenset({1, 3})
_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_EXIF_WORDS, _XMP_WORDS = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ROWS: Final = 192
"""Rows of samples, eight bits each, that the stages of the decoder hold: up to 32 of a unit, in several stages."""
_PLAIN_SEGMENTS: Final = 64
"""Segments of a header that is read at a glance; cameras write some ten to twenty, an ICC profile may have a few."""
_PLAIN_FRAMES: Final = frozenset({0xC0, 0xC1})
"""In one scan, as Huffman codes."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame header: its marker, a sample's bits, and for each component how often it is sampled across and down."""

    marker: int
    bits: int
    width: int
    height: int
    sampled: tuple[tuple[int, int], ...]

    def held_bytes(self, several_scans: bool) -> int:
        """Bytes that the decoder holds: rows always; of an image in several scans every coefficient, two bytes each."""
        across = max(across for across, _ in self.sampled)
        down = max(down for _, down in self.sampled)
        units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        blocks = units * sum(across * down for across, down in self.sampled)
        rows = (self.width + 8 * across) * len(self.sampled) * _ROWS
        return rows + (128 * blocks if several_scans else 0)


def scan_jpeg(body: bytes) -> Essence:
    """Keep tables, frames, scans and the segments that define the colour space."""
    header = _Header(body)
    frame, at, together = header.read()
    several = frame.marker in _PROGRESSIVE or not together
    if several:
        _count_scans(body, at, header.segments)
    exif = b"".join(header.exif)
    return Essence(
        header.kept.joined(),
        (frame.width, frame.height),
        frame.held_bytes(several),
        scalable=frame.marker in _SCALABLE,
        orientation=orientation_of(exif, header.xmp),
        exif=exif,
    )


def plain_jpeg(body: bytes) -> tuple[int, int, int, int] | None:
    """Read the header of a plain JPEG; None: not plain, ask `scan_jpeg`.

    Plain is one scan of eight bits, grey or in three colours, with a header as cameras and programs write it. No code
    but Python's sees a byte, and few bytes are looked at, whatever they are.

    Returns:
        width, height, components, and the bytes that are held besides its pixels and `body`.

    Raises:
        Rejected, IndexError, struct.error: it has no such header.
    """
    header = _Header(body, _PLAIN_SEGMENTS, gap=0)
    frame, _, together = header.read()
    components = len(frame.sampled)
    plain = together and frame.marker in _PLAIN_FRAMES and frame.bits == _BITS and components in _COLOURS
    if not plain or not frame.width * frame.height:
        return None
    held_bytes = frame.held_bytes(several_scans=False) + header.kept.copied_bytes
    return frame.width, frame.height, components, held_bytes


def jpeg_start(head: bytes) -> tuple[int, int, bytes | None, int | None]:
    """Width, height, EXIF and orientation in a JPEG's first bytes; 0 and None: unknown. Never raises."""
    header = _Header(head)
    with suppress(Rejected, IndexError, struct.error):
        header.read()
    frame, exif = header.frame, b"".join(header.exif)
    size = (frame.width, frame.height) if frame is not None else (0, 0)
    return *size, *((exif, orientation_of(exif, header.xmp)) if exif or frame is not None else (None, None))


def _frame(body: bytes, at: int) -> _Frame:
    """The frame header at this place. Raises Rejected: broken-image."""
    bits, height, width, components = struct.unpack_from(">BHHB", body, at + 4)
    factors = body[at + 11 : at + 10 + 3 * components : 3]
    sampled = tuple([(factor >> 4, factor & 15) for factor in factors])
    if not sampled or not all(0 < across <= 4 and 0 < down <= 4 for across, down in sampled):
        raise Rejected("decode", "broken-image", "the JPEG's frame has no components, or samples them wrongly")
    return _Frame(body[at + 1], bits, width, height, sampled)


class _Header:
    """All before the first scan's data.

    Args:
        most: segments that it may have.
        gap: bytes before a segment that may be passed over; None: all.
    """

    def __init__(self, body: bytes, most: int = _SEGMENTS, gap: int | None = None) -> None:
        self._body = body
        self._most = most
        self._gap = len(body) if gap is None else gap
        self.kept = Cut(body)
        self.kept.keep(0, 2)
        self.segments = 0
        self.frame: _Frame | None = None
        self._table_bytes = 0
        self.exif: list[bytes] = []
        self._exif_bytes = 0
        self.xmp = b""

    def read(self) -> tuple[_Frame, int, bool]:
        """The frame, the first scan's start, and whether it has all components."""
        at = 2
        while True:
            marker, start, end = _segment(self._body, at, self._gap)
            if marker == _EOI:
                raise Rejected("decode", "broken-image", "the JPEG ends before its image")
            if marker == _SOS:
                break
            self._take(marker, start, end)
            at = end
        if self.frame is None:
            raise Rejected("decode", "broken-image", "the JPEG has a scan before its frame")
        self.kept.keep(start, len(self._body))
        return self.frame, end, self._body[start + 4] >= len(self.frame.sampled)

    def _take(self, marker: int, start: int, end: int) -> None:
        self.segments += 1
        at_most(self._most, self.segments, "segments in a JPEG")
        if marker in _FRAMES:
            if self.frame is not None:
                raise Rejected("decode", "broken-image", "the JPEG has two frames")
            self.frame = _frame(self._body, start)
        elif marker in _TABLES:
            self._table_bytes += end - start
            at_most(_TABLE_BYTES, self._table_bytes, "bytes of tables in a JPEG's header")
        elif marker == _APP1:
            self._take_metadata(start + 4, end)
            return
        elif marker not in (_APP0, _ADOBE):
            return  # decides no pixel, or a marker without a segment
        self.kept.keep(start, end)

    def _take_metadata(self, start: int, end: int) -> None:
        """Keep a segment's EXIF, which may continue, or XMP: the last one counts."""
        if self._body.startswith(_EXIF_WORDS, start):
            self._exif_bytes += end - start
            if self._exif_bytes <= 2 * EXIF_MOST:
                self.exif.append(self._body[start + len(_EXIF_WORDS) : end])
        elif self._body.startswith(_XMP_WORDS, start):
            self.xmp = self._body[start + len(_XMP_WORDS) : end]


def _segment(body: bytes, at: int, gap: int) -> tuple[int, int, int]:
    found = _MARKER.search(body, at, at + gap + 2)
    if found is None:
        raise Rejected("decode", "broken-image", "the JPEG ends inside its header")
    start = found.start()
    marker = body[start + 1]
    if marker in (_TEM, _SOI, _EOI):
        return marker, start, start + 2
    (length,) = struct.unpack_from(">H", body, start + 2)
    if length < 2 or start + 2 + length > len(body):
        raise Rejected("decode", "broken-image", f"the JPEG is cut inside segment {marker:#x}")
    return marker, start, start + 2 + length


def _count_scans(body: bytes, at: int, segments: int) -> None:
    """Every scan passes over the whole image, whatever it holds: count them up to the image's end."""
    scans = 1
    while found := _MARKER.search(body, at):
        marker = body[found.start() + 1]
        if marker == _EOI:
            return
        at = found.end()
        if marker not in (_TEM, _SOI):
            at += int.from_bytes(body[at : at + 2], "big")
        segments += 1
        scans += marker == _SOS
        at_most(_SCANS, scans, "scans in a JPEG")
        at_most(_SEGMENTS, segments, "segments in a JPEG")
