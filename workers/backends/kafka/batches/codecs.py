"""Decompresses record batches of every codec, up to a limit.

A few kilobytes can hold gigabytes. So the output is counted while it grows, and a size that the data claim is checked
before it is used.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import lz4.frame
import zstandard

_CHUNK: Final = 1 << 20
_PIECE: Final = 1 << 14
_XERIAL: Final = b"\x82SNAPPY\x00"
"""Begins the snappy stream that Java writes: this, two numbers of four bytes, then blocks behind their lengths."""
_XERIAL_HEADER: Final = 16
_ZSTD_WINDOW: Final = 1 << 27
"""The window of zstd's highest level. Only its written part takes memory, so `limit` holds."""


class TooLarge(Exception):
    """The output exceeds the limit."""


class Malformed(Exception):
    """The data are invalid. The text is for people."""


def decompress(codec: int, data: bytes, limit: int) -> bytes | bytearray:
    """Decompress; takes at most twice the limit in memory, and two megabytes.

    Args:
        codec: of a batch's attributes: 0 uncompressed, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        limit: most bytes that may come out.

    Raises:
        TooLarge, Malformed.
    """
    if codec == 0:
        return data
    if codec not in _CODECS:
        raise Malformed(f"compressed with codec {codec}, which Kafka does not know")
    name, chunks = _CODECS[codec]
    out = bytearray()
    try:
        for chunk in chunks(data, limit):
            out += chunk
            if len(out) > limit:
                raise TooLarge
    # Each library has errors of its own; lz4 raises RuntimeError.
    except (zlib.error, zstandard.ZstdError, RuntimeError, ValueError, IndexError, struct.error) as error:
        raise Malformed(f"does not decompress as {name}: {error}") from error
    return out


def _gzip(data: bytes, _limit: int) -> Iterator[bytes]:
    """Decompress in pieces: a member's rest is copied, and there are many. A megabyte may have 50,000 members."""
    view, at = memoryview(data), 0
    while at < len(view):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = view[at : at + _PIECE]
            chunk = member.decompress(piece, _CHUNK)
            at += len(piece) - len(member.unconsumed_tail) - len(member.unused_data)
            if not (chunk or piece or member.eof):
                raise ValueError("it is cut off")
            yield chunk


def _lz4(data: bytes, _limit: int) -> Iterator[bytes]:
    frame = lz4.frame.LZ4FrameDecompressor()
    while not frame.eof:
        chunk = frame.decompress(data, max_length=_CHUNK)
        data = b""
        if not chunk and frame.needs_input and not frame.eof:
            raise ValueError("it is cut off")
        yield chunk


def _zstd(data: bytes, _limit: int) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        while chunk := reader.read(_CHUNK):
            yield chunk


def _snappy(data: bytes, limit: int) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield _snappy_block(data, limit)
        return
    at = _XERIAL_HEADER
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        block = data[at + 4 : at + 4 + size]
        if size < 1 or len(block) < size:
            raise ValueError("a block is cut off")
        at += 4 + size
        yield _snappy_block(block, limit)


def _snappy_block(block: bytes, limit: int) -> bytes:
    """One block of snappy's raw format: its size, then literals and copies of earlier output.

    Written here, because a library would be a dependency for one codec of four.
    """
    size, at = _little_varint(block)
    if size > limit:
        raise TooLarge
    out = bytearray()
    while at < len(block):
        tag = block[at]
        at += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                length = int.from_bytes(block[at : at + extra], "little") + 1
                at += extra
            out += block[at : at + length]
            at += length
            if at > len(block):
                raise ValueError("a literal is cut off")
        else:
            length, back, at = _snappy_copy(block, tag, at)
            start = len(out) - back
            if back == 0 or start < 0:
                raise ValueError("a copy of what is not there")
            # Longer than the way back it repeats itself.
            piece = out[start : start + length]
            out += piece if len(piece) == length else (piece * (length // back + 1))[:length]
        if len(out) > size:
            break
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes where {size} were announced")
    return bytes(out)


def _snappy_copy(block: bytes, tag: int, at: int) -> tuple[int, int, int]:
    """Length, way back, and where the next tag stands."""
    if tag & 3 == 1:
        return 4 + (tag >> 2 & 7), (tag >> 5) << 8 | block[at], at + 1
    width = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, int.from_bytes(block[at : at + width], "little"), at + width


def _little_varint(block: bytes) -> tuple[int, int]:
    value = 0
    for at in range(5):
        value |= (block[at] & 0x7F) << (7 * at)
        if not block[at] & 0x80:
            return value, at + 1
    raise ValueError("its size does not end")


_CODECS: Final[dict[int, tuple[str, Callable[[bytes, int], Iterator[bytes]]]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
