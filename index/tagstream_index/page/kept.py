"""Pictures on disk: each bound to its subject and content, for a day at most."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Final, TypeAlias

import orjson

KEPT_S: Final = 24 * 3600.0
"""The life of a file: a day."""
_SUFFIX: Final = ".picture"
_OURS: Final = (_SUFFIX, ".part")
"""Files that a sweep may remove."""
_HEAD_BYTES: Final = 16_384
_SWEEP: Final = 200
"""New files between two sweeps."""
_AT_ONCE: Final = 1_000

Current: TypeAlias = Callable[[list[str]], Mapping[str, str]]
"""Gives the sha256 of the content by subject, for given subjects that the index shows."""


class Kept:
    """Files of pictures. Their first line is subject and sha256 of the object's content; JPEG follows. Thread-safe.

    Args:
        folder: only our files in it are touched.
        most_bytes: of all files together; the longest unused go first.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._written = count(1)
        folder.mkdir(parents=True, exist_ok=True)
        self.sweep()

    def read(self, subject: str, sha256: str, side: int) -> bytes | None:
        """The kept JPEG of this content, if any."""
        path = self._path(subject, side)
        try:
            made_at = path.stat().st_mtime
            head, _, jpeg = path.read_bytes().partition(b"\n")
            if time.time() - made_at > KEPT_S or head != _head(subject, sha256):
                return None
            os.utime(path, (time.time(), made_at))
        except OSError:
            return None
        return jpeg

    def write(self, subject: str, sha256: str, side: int, jpeg: bytes) -> None:
        path = self._path(subject, side)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(b"%b\n%b" % (_head(subject, sha256), jpeg))
        os.replace(file.name, path)
        if next(self._written) % _SWEEP == 0:
            self.sweep()

    def sweep(self, current: Current | None = None) -> None:
        """Remove old files, and the longest unused ones beyond the limit.

        Args:
            current: files of other pictures go too; None: any picture is kept.
        """
        found = []
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                if path.suffix in _OURS:
                    seen = path.stat()
                    found.append((seen.st_atime, seen.st_size, time.time() - seen.st_mtime > KEPT_S, path))
        total, left = 0, list[Path]()
        for _, size, old, path in sorted(found, reverse=True):
            total += size
            if old or total > self._most_bytes:
                _remove(path)
            elif path.suffix != ".part":
                left.append(path)
        if current is not None:
            _remove_others(iter(left), current)

    def _path(self, subject: str, side: int) -> Path:
        name = hashlib.sha256(subject.encode()).hexdigest()  # never a path, whatever an outcome says
        return self._folder / name[:2] / f"{name[2:]}-{side}{_SUFFIX}"


def _head(subject: str, sha256: str) -> bytes:
    return orjson.dumps([subject, sha256])


def _remove_others(paths: Iterator[Path], current: Current) -> None:
    while some := list(islice(paths, _AT_ONCE)):
        said = {path: _said(path) for path in some}
        there = current([subject for subject, _ in said.values()])
        for path, (subject, sha256) in said.items():
            if there.get(subject) != sha256:
                _remove(path)


def _said(path: Path) -> tuple[str, str]:
    """Subject and content of a file; empty if unreadable."""
    try:
        with path.open("rb") as file:
            subject, sha256 = orjson.loads(file.readline(_HEAD_BYTES))
    except (OSError, ValueError):
        return "", ""
    return str(subject), str(sha256)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
