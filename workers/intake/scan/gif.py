"""The structure of a GIF, up to its first image."""

from __future__ import annotations

import re
import struct
from typing import Final

from workers.errors import Rejected
from workers.intake.scan.essence import Cut, Essence, at_most

_PIECES: Final = 65_536
"""Blocks and their parts before the first image. A part has up to 255 bytes, so that is room for 16 MB of texts."""
_HEADER: Final = 13
_BLOCK: Final = re.compile(rb"[!,;]")
_CONTROL: Final = 0xF9


def scan_gif(body: bytes) -> Essence:
    """Keep the palette, the first image, its control block and the rest."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    at = _HEADER + _palette_bytes(flags)
    cut = Cut(body)
    cut.keep(0, at)
    image, control = _first_image(body, at)
    if control is not None:
        cut.keep(*control)
    left, top, across, down = struct.unpack_from("<HHHH", body, image + 1)
    cut.keep(image, len(body))
    size = max(width, left + across), max(height, top + down)
    # Besides the image: what its place will be filled with afterwards, and a row.
    return Essence(cut.joined(), size, across * down + 4 * size[0])


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _first_image(body: bytes, at: int) -> tuple[int, tuple[int, int] | None]:
    """Offset of the first image; start and end of its control block."""
    pieces = 0
    control: tuple[int, int] | None = None
    while found := _BLOCK.search(body, at):
        start = found.start()
        if body[start] == ord(","):
            return start, control
        if body[start] == ord(";"):
            break
        at = start + 2
        while length := body[at]:
            at += 1 + length
            pieces += 1
            at_most(_PIECES, pieces, "pieces before a GIF's first image")
        at += 1
        pieces += 1
        at_most(_PIECES, pieces, "pieces before a GIF's first image")
        if body[start + 1] == _CONTROL:
            control = start, at
    raise Rejected("decode", "broken-image", "the GIF has no image")
