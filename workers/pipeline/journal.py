"""The journal: a file that finds images which crash the process.

Before the intake reads an image, its coordinates are appended to the file. They are removed after the models. So the
next process finds each image that was in progress when this process died. Such an image is a *suspect*. One crash
proves nothing, because a process can also be killed from outside. So a suspect runs alone. If the process dies twice
while the same suspect runs alone, the suspect is *poison* and becomes a dead letter. After a clean exit, the file holds
only poison images whose dead letters are not committed.

The file must survive the process, not the machine, so there is no fsync. If the disk is full, the file is emptied: an
outdated file would blame sound images. Each worker has its own file.

The file decides which images are not tried. So it must be a regular file of our own user, of limited size and in our
format, and no symbolic link. Any other file is replaced, with a line in the log.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from workers.errors import Misconfigured
from workers.types import Coordinates, Partition

_log = logging.getLogger(__name__)

_IN_PROGRESS, _ALONE, _ALONE_AGAIN, _SUSPECT, _SUSPECT_AGAIN, _LEFT = "+", "!", "#", "?", "=", "-"
"""The marks of a line. The two `_AGAIN` mark a suspect with which the process has died once while it ran alone."""
_REWRITE_BYTES = 256 * 1024
_MOST_BYTES = 16 * 1024 * 1024
"""The largest file that is read."""
_LINE = re.compile(rb"([+!#?=-]) ([A-Za-z0-9._-]{1,249}) (\d{1,9}) (\d{1,18}) (\d{1,9})")
"""Mark, topic, partition, offset and index, within Kafka's limits."""


class Journal:
    """One worker's journal. Thread-safe. Raises Misconfigured: the file can't be read or written."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._in_progress: dict[Coordinates, str] = {}
        self._tasks: Counter[Coordinates] = Counter()
        self.suspects: frozenset[Coordinates] = frozenset()
        """Images that were in progress when a process died."""
        self._died_alone: set[Coordinates] = set()
        self.poison: frozenset[Coordinates] = frozenset()
        self._path = path
        self._file: int | None = None
        self._size = 0
        self._kept = 0
        """Size after the last rewrite, in bytes."""
        self._full = False
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
            self._rewrite(path)
        except OSError as error:
            raise Misconfigured(
                f"the journal {path} can't be written ({error.strerror}): "
                "TAGSTREAM_STATE_DIR must be a folder that this user may write"
            ) from error

    def enter(self, image: Coordinates) -> None:
        """Add an image; a suspect runs alone from now on."""
        with self._lock:
            mark = self._mark_of_suspect(image, _ALONE, _ALONE_AGAIN) if image in self.suspects else _IN_PROGRESS
            self._in_progress[image] = mark
            self._tasks[image] += 1
            self._note(mark, image)

    def leave(self, image: Coordinates, *, came_through: bool = True) -> None:
        """Remove an image.

        If a partition was revoked and assigned again, an image can be in progress twice. The last call counts.

        Args:
            came_through: whether the image was processed to the end, so that it is no suspect.
        """
        with self._lock:
            self._tasks[image] -= 1
            if self._tasks[image] > 0:
                return
            del self._tasks[image]
            if self._in_progress.pop(image, None) is None:
                return
            if came_through:
                self.suspects -= {image}
            self._note(self._suspicion(image) if image in self.suspects else _LEFT, image)

    def settled(self, images: Iterable[Coordinates]) -> None:
        """Forget poison images, because their dead letters are committed."""
        with self._lock:
            for image in self.poison.intersection(images):
                self.poison -= {image}
                self._note(_LEFT, image)

    def begins(self, partition: Partition, offset: int) -> None:
        """Forget images before the committed offset of a partition."""
        with self._lock:
            passed = {
                image
                for image in self.poison | self.suspects
                if (image.topic, image.partition) == partition and image.offset < offset
            }
            self.poison -= passed
            self.suspects -= passed
            for image in passed:
                self._note(_LEFT, image)

    def close(self) -> None:
        """End cleanly: only poison images stay in the file."""
        with self._lock:
            if self._file is None or self._path is None:
                return
            self._in_progress.clear()
            self._tasks.clear()
            self.suspects = frozenset()
            try:
                self._rewrite(self._path)
            except OSError as error:
                _log.warning("the journal %s can't be emptied: %s", self._path, error.strerror)
            os.close(self._file)
            self._file = None

    def _mark_of_suspect(self, image: Coordinates, first: str, again: str) -> str:
        return again if image in self._died_alone else first

    def _suspicion(self, image: Coordinates) -> str:
        return self._mark_of_suspect(image, _SUSPECT, _SUSPECT_AGAIN)

    def _note(self, mark: str, image: Coordinates) -> None:
        """Append a line; rewrite a large file, or after a failed write."""
        if self._file is None or self._path is None:
            return
        try:
            if self._full or self._size > max(_REWRITE_BYTES, 2 * self._kept):
                self._rewrite(self._path)
            else:
                line = _line(mark, image)
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._size += len(line)
        except OSError as error:
            if not self._full:
                _log.warning("the journal %s can't be written (%s): continuing without it", self._path, error.strerror)
            self._full = True
            with suppress(OSError):
                os.ftruncate(self._file, 0)
        else:
            self._full = False

    def _read(self, path: Path) -> None:
        marks: dict[Coordinates, str] = {}
        for mark, image in _entries(_content(path), path):
            if mark == _LEFT:
                marks.pop(image, None)
            else:
                marks[image] = mark
        self.poison = frozenset(image for image, mark in marks.items() if mark == _ALONE_AGAIN)
        self.suspects = frozenset(image for image, mark in marks.items() if mark != _ALONE_AGAIN)
        self._died_alone = {image for image, mark in marks.items() if mark in {_ALONE, _SUSPECT_AGAIN}}

    def _rewrite(self, path: Path) -> None:
        """Replace the file atomically with one line for each image."""
        marks = {image: self._suspicion(image) for image in sorted(self.suspects)}
        marks |= dict.fromkeys(sorted(self.poison), _ALONE_AGAIN)
        marks |= self._in_progress
        fresh = path.with_name(f"{path.name}.new")
        lines = b"".join(_line(mark, image) for image, mark in marks.items())
        fresh.unlink(missing_ok=True)  # left by a process that died here
        new = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.write(new, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fresh.replace(path)
        except OSError:
            os.close(new)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._size, self._kept = new, len(lines), len(lines)


def _line(mark: str, image: Coordinates) -> bytes:
    return f"{mark} {image.topic} {image.partition} {image.offset} {image.index}\n".encode()


def _content(path: Path) -> bytes:
    """The content of the file; empty if it is missing or foreign. Raises OSError: our file can't be read."""
    try:
        # O_NONBLOCK: without it, opening a pipe would wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return _ignored(path, "it is no regular file")
    with open(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return _ignored(path, "it is no regular file")
        if found.st_uid != os.geteuid():
            return _ignored(path, "it belongs to another user")
        content = opened.read(_MOST_BYTES + 1)
    return content if len(content) <= _MOST_BYTES else _ignored(path, f"the file has more than {_MOST_BYTES} bytes")


def _ignored(path: Path, why: str) -> bytes:
    _log.warning("replacing the journal %s, which can't be read: %s", path, why)
    return b""


def _entries(content: bytes, path: Path) -> Iterator[tuple[str, Coordinates]]:
    lines = content.split(b"\n")[:-1]
    matches = [_LINE.fullmatch(line) for line in lines]
    if odd := matches.count(None):
        _log.warning("ignored %d of the %d lines of the journal %s: malformed", odd, len(lines), path)
    for match in matches:
        if match is not None:
            mark, topic, *numbers = (word.decode("ascii") for word in match.groups())
            yield mark, Coordinates(topic, *map(int, numbers))
