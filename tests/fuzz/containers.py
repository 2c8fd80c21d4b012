"""Image files split into their pieces, damaged there, and joined again.

Pieces are those of each format's container: JPEG's segments, PNG's chunks, RIFF's, ISO's boxes, TIFF's directory
entries, GIF's blocks. A damaged piece mostly gets a right length and checksum, so that a reader gets past the check.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from tests.fuzz import mutators
from tests.fuzz.mutators import Parts


@dataclass(frozen=True)
class Piece:
    kind: bytes
    body: bytes
    raw: bool = False
    lie: int = 0
    """Added to the length that is written in front of it."""


Take = Callable[[bytes], Iterator[Piece]]
Put = Callable[[Piece], bytes]


def damaged(random: Random, parts: Parts) -> Parts:
    """Another file: by its pieces where it has a container that is known here, and now and then by its bytes."""
    data = parts[0]
    container = next((found for magic, found in _CONTAINERS if magic(data)), None)
    if container is None or random.random() < 0.25:
        return (mutators.by_bytes(random, data),)
    take, put = container
    try:
        pieces = list(take(data))
    except IndexError:  # cut off in the middle of a piece
        return (mutators.by_bytes(random, data),)
    for _ in range(random.choice((1, 1, 2, 4))):
        pieces = _other(random, pieces)
    return (b"".join(put(piece) for piece in pieces)[: 4 * mutators.LARGEST],)


def _other(random: Random, pieces: list[Piece]) -> list[Piece]:
    if not pieces:
        return pieces
    at, other = random.randrange(len(pieces)), random.randrange(len(pieces))
    piece = pieces[at]
    match random.randrange(8):
        case 0:
            return pieces[:at] + pieces[at + 1 :]
        case 1:
            return [*pieces[:at], pieces[other], *pieces[at:]]
        case 2:
            room = mutators.LARGEST // (len(piece.body) + 12)
            return pieces[:at] + [piece] * min(room, random.choice((3, 3, 30, 30, 1000, 100_000))) + pieces[at:]
        case 3:
            return [*pieces[:at], replace(piece, kind=pieces[other].kind), *pieces[at + 1 :]]
        case 4:
            return [
                *pieces[:at],
                replace(piece, lie=random.choice((-8, -1, 1, 4, 255, 65_535, 2**31))),
                *pieces[at + 1 :],
            ]
        case _:
            return [*pieces[:at], replace(piece, body=mutators.by_bytes(random, piece.body)), *pieces[at + 1 :]]


def _jpeg(data: bytes) -> Iterator[Piece]:
    at = 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == b"\xff\xd8":
            yield Piece(kind, b"", raw=True)
            at += 2
            continue
        yield Piece(kind, data[at + 4 : at + 2 + length])
        at += 2 + length
        if kind == b"\xff\xda":
            end = _entropy_end(data, at)
            yield Piece(b"", data[at:end], raw=True)
            at = end
    yield Piece(b"", data[at:], raw=True)


def _entropy_end(data: bytes, at: int) -> int:
    """The place of the next marker that is neither a stuffed byte nor a restart."""
    while (at := data.find(b"\xff", at)) >= 0:
        if at + 1 < len(data) and data[at + 1] not in (0, *range(0xD0, 0xD8)):
            return at
        at += 2
    return len(data)


def _put_jpeg(piece: Piece) -> bytes:
    if piece.raw:
        return piece.kind + piece.body
    return piece.kind + ((len(piece.body) + 2 + piece.lie) % 65_536).to_bytes(2, "big") + piece.body[:65_533]


def _png(data: bytes) -> Iterator[Piece]:
    yield Piece(b"", data[:8], raw=True)
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield Piece(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length


def _put_png(piece: Piece) -> bytes:
    if piece.raw:
        return piece.body
    length = (len(piece.body) + piece.lie) % 2**32
    checksum = zlib.crc32(piece.kind + piece.body)
    return length.to_bytes(4, "big") + piece.kind + piece.body + checksum.to_bytes(4, "big")


def _riff(data: bytes) -> Iterator[Piece]:
    yield Piece(b"", data[:12], raw=True)
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield Piece(data[at : at + 4], data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2


def _put_riff(piece: Piece) -> bytes:
    if piece.raw:
        return piece.body
    length = (len(piece.body) + piece.lie) % 2**32
    return piece.kind + length.to_bytes(4, "little") + piece.body + b"\0" * (len(piece.body) % 2)


def _iso(data: bytes) -> Iterator[Piece]:
    at = 0
    while at + 8 <= len(data):
        length = max(8, int.from_bytes(data[at : at + 4], "big"))
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + length]
        yield Piece(kind, body)
        at += length


def _put_iso(piece: Piece) -> bytes:
    return ((len(piece.body) + 8 + piece.lie) % 2**32).to_bytes(4, "big") + piece.kind + piece.body


def _tiff(data: bytes) -> Iterator[Piece]:
    """Up to the first directory, each of its entries, and the rest. Only little-endian ones of the classic kind."""
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    yield Piece(b"", data[: at + 2], raw=True)
    for number in range(count):
        start = at + 2 + 12 * number
        yield Piece(data[start : start + 2], data[start + 2 : start + 12])
    yield Piece(b"", data[at + 2 + 12 * count :], raw=True)


def _put_tiff(piece: Piece) -> bytes:
    if piece.raw:
        return piece.body
    kind, count, value = struct.unpack("<HII", piece.body[:10].ljust(10, b"\0"))
    return piece.kind + struct.pack("<HII", kind, (count + piece.lie) % 2**32, value)


def _gif(data: bytes) -> Iterator[Piece]:
    """The screen with its palette, then extensions and images, cut where their introducers stand."""
    palette = 3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0
    yield Piece(b"", data[: 13 + palette], raw=True)
    start = at = 13 + palette
    while at < len(data):
        at += 2 if data[at] == 0x21 else 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0) + 1
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
        yield Piece(b"", data[start:at], raw=True)
        start = at
        if data[at : at + 1] == b";":
            break
    yield Piece(b"", data[start:], raw=True)


def _put_raw(piece: Piece) -> bytes:
    return piece.body


_CONTAINERS: tuple[tuple[Callable[[bytes], bool], tuple[Take, Put]], ...] = (
    (lambda data: data[:2] == b"\xff\xd8", (_jpeg, _put_jpeg)),
    (lambda data: data[:4] == b"\x89PNG", (_png, _put_png)),
    (lambda data: data[:4] == b"RIFF", (_riff, _put_riff)),
    (lambda data: data[4:8] == b"ftyp", (_iso, _put_iso)),
    (lambda data: data[:4] == b"II*\0" and int.from_bytes(data[4:8], "little") < len(data), (_tiff, _put_tiff)),
    (lambda data: data[:3] == b"GIF" and len(data) > 32, (_gif, _put_raw)),
)
