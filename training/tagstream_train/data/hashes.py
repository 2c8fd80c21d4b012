"""Remembers images' hashes, so that unchanged images are not read again."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from workers.models.bundle import cache_folder

_MOST = 100_000
_LINE = re.compile(r"^([0-9a-f]{64}) ([0-9a-f]{64})$", re.MULTILINE)


class Hashes:
    """Hashes of bytes by an image's place and stamp. Thread-safe.

    The user's cache folder keeps them. The place is a path, or an object's name. The stamp changes with the bytes: a
    file's size and time of change, an object's etag and version.
    """

    def __init__(self) -> None:
        self._new: dict[str, str] = {}

    def of(self, place: str, stamp: str) -> str | None:
        """The sha256 of the bytes, hex; None: not known."""
        key = _key(place, stamp)
        return self._new.get(key) or self._kept.get(key)

    def note(self, place: str, stamp: str, sha256: str) -> None:
        self._new[_key(place, stamp)] = sha256

    def keep(self) -> None:
        """For the next run; one that can't write only takes longer."""
        if not self._new:
            return
        file, known = _file(), _read() | self._new
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch = file.with_suffix(f".{os.getpid()}")
            scratch.write_text("".join(f"{key} {sha256}\n" for key, sha256 in list(known.items())[-_MOST:]))
            scratch.replace(file)

    @cached_property
    def _kept(self) -> dict[str, str]:
        return _read()


def _file() -> Path:
    return cache_folder() / "features" / "hashes.txt"


def _read() -> dict[str, str]:
    with suppress(OSError, UnicodeDecodeError):
        return dict(_LINE.findall(_file().read_text()))
    return {}


def _key(place: str, stamp: str) -> str:
    return hashlib.sha256(f"{place}\0{stamp}".encode("utf-8", "surrogateescape")).hexdigest()
