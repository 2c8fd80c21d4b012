"""Limits of objects and images, and the rejections that decoders' errors become."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError

from workers.errors import Rejected
from workers.types import Facts, FactsMode

MIB = 1024 * 1024
_COPIES = {"avif": 4, "webp": 4}
"""How often a decoder copies the file when it opens it; of others our own reader of the structure may copy it once."""
_MORE = {"tiff": 16 * MIB}
"""Measured for 65,536 strips of a TIFF: 15 MiB; for all other accepted files: less than 8."""
FLAT: Final = ("tiff", "avif")
"""Formats whose decoder gets a flat bound of memory, and seconds to stay within it."""
FLAT_S = 5.0
"""An AVIF of 50 megapixels takes 1.3 s on EPYC Zen 4, a TIFF compressed by LZMA 2.7 s."""
_FLAT_PIXEL_BYTES, _FLAT_COPIES = 32, 4
_FLAT_ROOM_BYTES = 16 * MIB
"""Addresses beyond the reservation while a header is read: steps of the allocators."""
DECODE_ROOM_BYTES = 64 * MIB
"""Addresses that a decoder may take besides its image: the allocator's steps, codecs' tables and pools."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, each checked as early as it can be known.

    Args:
        max_object_bytes: an object's size, by its event, its Content-Length and while it streams (`object-too-large`).
        fetch_s: wall clock of one GET, its retries included.
        max_pixels: width × height by the header, before anything is decoded (`too-many-pixels`).
        min_side: the shorter side in pixels (`too-small`).
        decode_bytes: what decoding may take, by its header's estimate and in a child process (`decode-memory`).
        inspect_bytes: what reading a header holds in memory at most, besides copies of the encoded bytes and what
            `inspect_held_bytes` adds for a format.
        inspect_s: wall clock of reading a header, in a child process.
        formats: names of `workers.intake.header`, recognised by content, never by a key's ending
            (`format-not-allowed`).
        facts: the facts that a decoder may tell of a picture.
    """

    max_object_bytes: int = 20 * MIB
    fetch_s: float = 25.0
    max_pixels: int = 50_000_000
    min_side: int = 3
    decode_bytes: int = 1024 * MIB
    inspect_bytes: int = 8 * MIB
    inspect_s: float = 10.0
    formats: tuple[str, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
    facts: FactsMode = "off"

    def allow(self, facts: Facts) -> bool:
        """Whether these facts are within the limits, and of the wanted kind."""
        return (
            facts.size <= self.max_object_bytes
            and facts.width * facts.height <= self.max_pixels
            and min(facts.width, facts.height) >= self.min_side
            and facts.format in self.formats
            and (facts.original is None or facts.original.mode == self.facts)
        )

    def inspect_address_bytes(self, name: str | None, encoded_bytes: int) -> int:
        """Addresses that reading a header may add to a process.

        WebP's decoder asks for two canvases of four bytes a pixel when it is opened, and does not touch them before it
        decodes: they take addresses, and no memory.
        """
        more = _FLAT_ROOM_BYTES if name in FLAT else 8 * self.max_pixels
        return self.inspect_held_bytes(name, encoded_bytes) + more

    def inspect_held_bytes(self, name: str | None, encoded_bytes: int) -> int:
        """Bytes held while the header of an encoded image is read; None: of a format that is not known here.

        By format, because the share of a partition must have room for it: with one bound for all, a photo of some
        hundred kB would wait for the pool, which others may hold.
        """
        copies = _COPIES.get(name or "", 1)
        return self.inspect_bytes + _MORE.get(name or "", 0) + copies * encoded_bytes

    def decode_address_bytes(self, estimate: int) -> int:
        """Addresses that decoding may add to a process: the estimate, and some room.

        The estimate is an upper bound of touched memory; codecs reserve further addresses.
        """
        return estimate + estimate // 4 + DECODE_ROOM_BYTES


def flat_bytes(size: tuple[int, int], encoded_bytes: int) -> int:
    """Bytes reserved for decoding an image of a format in `FLAT`."""
    return _FLAT_PIXEL_BYTES * size[0] * size[1] + _FLAT_COPIES * encoded_bytes


_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders are known to raise on bytes that are not what their header says."""


@contextmanager
def blame() -> Iterator[None]:
    """Turn whatever a decoder raises into a Rejected of stage "decode".

    Use it around decoders alone, and have the self-test confirm the verdict (workers/intake/decoding.py).
    """
    try:
        yield
    except Rejected:
        raise
    except _BOMB as error:
        raise Rejected("decode", "too-many-pixels", str(error)) from error
    except MemoryError as error:
        raise Rejected("decode", "decode-memory", "the decoder ran out of memory") from error
    except _BROKEN as error:
        raise Rejected("decode", "broken-image", _words(error)) from error
    except Exception as error:
        raise Rejected("decode", "decode-failed", _words(error)) from error


def _words(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text names a Python object
        return "the header can't be read"
    return f"{type(error).__name__}: {error}"
