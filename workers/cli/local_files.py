"""Files of this machine as commands take them: images by their endings, regular files alone, and bounded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from workers.errors import LargerThanReserved, Misconfigured

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
"""Endings by which a folder's files are taken for images. Of a bucket all is taken: the worker's TAGSTREAM_KEY_GLOBS
chooses there."""


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file: a pipe or a device might never end, or never begin.

    Raises:
        OSError: it can't be read, or is no regular file.
        LargerThanReserved: it has more bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "it is no regular file")
        if facts.st_size > max_bytes:
            raise LargerThanReserved(facts.st_size)
        body = file.read(max_bytes + 1)
    if len(body) > max_bytes:  # it grew meanwhile
        raise LargerThanReserved(None)
    return body


def require_writable(folder: Path) -> None:
    """Check that a file can be put into this folder.

    The check comes before minutes of work; the folder need not exist yet.

    Raises:
        Misconfigured: it can't.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise Misconfigured(f"{folder} can't be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Misconfigured(f"{folder} can't be written: {there} is read-only, or this user's rights are too few")
