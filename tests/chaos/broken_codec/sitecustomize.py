"""Imported by every interpreter that starts with this folder on its PYTHONPATH, child processes included.

Pillow hands each chunk of a PNG to the method that is named after it, so one more method is a decoder with a fault:
it runs where libpng's would, in the middle of reading a header or of loading pixels.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from PIL import ImageFile, PngImagePlugin

_PIECE = 64 << 20
_PIECES = 64


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _swell() -> None:
    """Take 4 GiB and write to all of it."""
    hoard: list[bytearray] = []
    while len(hoard) < _PIECES:
        hoard.append(bytearray(b"\1") * _PIECE)


def _abort_without_memory() -> None:
    try:
        _swell()
    except MemoryError:
        os.abort()


DEEDS: dict[str, Callable[[], object]] = {
    "aborts": os.abort,
    "aborts-without-memory": _abort_without_memory,
    "dawdles": lambda: time.sleep(4),
    "dies": _kill,
    "hangs": lambda: time.sleep(3600),
    "segfaults": lambda: ctypes.string_at(0),
    "swells": _swell,
}


def _chunk(stream: PngImagePlugin.PngStream, at: int, length: int) -> bytes:
    data = ImageFile._safe_read(stream.fp, length)  # type: ignore[arg-type]
    deed, _, marker = data.decode().partition(" ")
    if not marker or _is_new(Path(marker)):
        DEEDS[deed]()
    return data


def _is_new(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


PngImagePlugin.PngStream.chunk_doIt = _chunk  # type: ignore[attr-defined]
