"""Imported by every interpreter with this folder on its PYTHONPATH, child processes included.

Pillow calls a method named after each chunk of a PNG, so an added method acts as a faulty decoder: it runs where libpng
would, while the header is read or pixels are loaded. The chunk is EXIF's, one of the few that the scan passes on to a
decoder.

A child can make no file. Memory that the fork server shares with its children remembers one-time actions.
"""

import ctypes
import mmap
import os
import signal
import socket
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import ImageFile, PngImagePlugin

_PIECE = 64 << 20
_PIECES = 64
_DOES = b"does "
"""How the content of a chunk begins that brings its decoder down; the folder's `__init__` says the same."""
_done = mmap.mmap(-1, mmap.PAGESIZE)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _grow() -> None:
    """Take 4 GiB and write to all of it."""
    hoard: list[bytearray] = []
    while len(hoard) < _PIECES:
        hoard.append(bytearray(b"\1") * _PIECE)


def _abort_without_memory() -> None:
    try:
        _grow()
    except MemoryError:
        os.abort()


def _break_out() -> None:
    """Try the ways out of a child, then forge answers. If a way was open, come through: that is no dead letter."""
    ways: list[Callable[[], object]] = [
        lambda: os.environ["TAGSTREAM_S3_SECRET_KEY"],
        lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        lambda: Path("/etc/passwd").read_bytes(),
        lambda: Path(tempfile.gettempdir(), "a decoder was here").touch(),
        socket.socket,
        os.fork,
    ]
    for way in ways:
        with suppress(OSError, KeyError):
            way()
            return
    for descriptor in range(3, 20):
        with suppress(OSError):
            os.write(descriptor, bytes(range(256)) * 4)


def _blacken_from_now_on() -> None:
    """Take this process over: every image that it loads comes out black, and nothing else is to be seen of it."""
    intact = ImageFile.ImageFile.load

    def load(image: ImageFile.ImageFile) -> Any:
        loaded = intact(image)
        image.im.paste(0, (0, 0, *image.size))
        return loaded

    ImageFile.ImageFile.load = load  # type: ignore[method-assign,assignment]


DEEDS: dict[str, Callable[[], object]] = {
    "aborts": os.abort,
    "aborts-without-memory": _abort_without_memory,
    "blackens": _blacken_from_now_on,
    "breaks-out": _break_out,
    "dawdles": lambda: time.sleep(1.2),
    "dies": _kill,
    "hangs": lambda: time.sleep(3600),
    "segfaults": lambda: ctypes.string_at(0),
    "grows": _grow,
}


def _chunk(stream: PngImagePlugin.PngStream, at: int, length: int) -> bytes:
    data: bytes = ImageFile._safe_read(stream.fp, length)  # type: ignore[arg-type]
    if not data.startswith(_DOES):
        stream.im_info["exif"] = b"Exif\0\0" + data  # as Pillow has it
        return data
    deed, _, marker = data.removeprefix(_DOES).decode().partition(" ")
    if not marker or _is_new(marker):
        DEEDS[deed]()
    return data


def _is_new(marker: str) -> bool:
    place = zlib.crc32(marker.encode()) % mmap.PAGESIZE
    new, _done[place] = not _done[place], 1
    return new


PngImagePlugin.PngStream.chunk_eXIf = _chunk  # type: ignore[assignment,method-assign]
