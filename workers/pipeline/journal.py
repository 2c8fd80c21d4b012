"""The journal: finds images that kill the process, so that they are not tried for ever.

Before an image enters the decoder or the device, its coordinates are written to a small local file, and removed
when it leaves. Any image in the file at the next start was in hand when the process died: it is a *suspect* and runs
alone. If the process dies twice while the same suspect runs alone, the image is *poison* and never tried again.
One death proves nothing: a process is also killed from outside, with sound images in hand.
No other image is affected, and workers share no journal. After a clean exit the file holds only poison images without
a committed dead letter: the next process must not try them again.

The file must outlive the process, not the machine, so nothing is synced to disk. Lines are appended, and the file is
rewritten when it has grown; a line cut off by the death is ignored. If the disk fills up, the file is emptied and work
goes on: a file without the latest removals would poison sound images.

The file decides which images are never tried, so it must be ours: a regular file of our own user, not behind a symbolic
link, of bounded size, with lines in our format. Anything else is ignored, with one line in the log. Nothing is written
through a link.
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

_IN_HAND, _ALONE, _ALONE_AGAIN, _SUSPECT, _SUSPECT_AGAIN, _LEFT = "+", "!", "#", "?", "=", "-"
"""The two `_AGAIN` mark images that ran alone when a process died."""
_REWRITE_BYTES = 256 * 1024
_MOST_BYTES = 16 * 1024 * 1024
"""Far more bytes than the lines of all images that gigabytes of budget admit."""
_LINE = re.compile(rb"([+!#?=-]) ([A-Za-z0-9._-]{1,249}) (\d{1,9}) (\d{1,18}) (\d{1,9})")
"""A mark, topic, partition, offset and index, within Kafka's limits."""


class Journal:
    """One worker's journal. Thread-safe.

    Args:
        path: the file; a missing folder is made. None: nothing is written and no image is a suspect.

    Raises:
        Misconfigured: the file can't be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._in_hand: dict[Coordinates, str] = {}
        self._tasks: Counter[Coordinates] = Counter()
        self.suspects: frozenset[Coordinates] = frozenset()
        """Images that were in hand when an earlier process died."""
        self._died_alone: set[Coordinates] = set()
        self.poison: frozenset[Coordinates] = frozenset()
        self._path = path
        self._file: int | None = None
        self._size = 0
        self._kept = 0
        """Bytes after the last rewrite; only growth beyond them leads to the next."""
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
        """Note that this image is about to be decoded; a suspect runs alone."""
        with self._lock:
            mark = self._mark_of_suspect(image, _ALONE, _ALONE_AGAIN) if image in self.suspects else _IN_HAND
            self._in_hand[image] = mark
            self._tasks[image] += 1
            self._note(mark, image)

    def leave(self, image: Coordinates, *, came_through: bool = True) -> None:
        """Note that this image left; only a finished suspect is cleared.

        After a partition left and came back, an image can be in hand twice: the last to leave counts.
        """
        with self._lock:
            self._tasks[image] -= 1
            if self._tasks[image] > 0:
                return
            del self._tasks[image]
            if self._in_hand.pop(image, None) is None:
                return
            if came_through:
                self.suspects -= {image}
            self._note(self._suspicion(image) if image in self.suspects else _LEFT, image)

    def settled(self, images: Iterable[Coordinates]) -> None:
        """Note that these images are committed: their poison marks can go."""
        with self._lock:
            for image in self.poison.intersection(images):
                self.poison -= {image}
                self._note(_LEFT, image)

    def begins(self, partition: Partition, offset: int) -> None:
        """Forget images before a partition's start offset: they are committed."""
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
        """End cleanly: clear all images in hand and all suspects."""
        with self._lock:
            if self._file is None or self._path is None:
                return
            self._in_hand.clear()
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
        """Append one line; rewrite the file if it has grown or the last write failed."""
        if self._file is None or self._path is None:
            return
        try:
            if self._full or self._size > max(_REWRITE_BYTES, 2 * self._kept):
                self._rewrite(self._path)
            else:
                self._append(_line(mark, image))
        except OSError as error:
            if not self._full:
                _log.warning("the journal %s can't be written (%s): continuing without it", self._path, error.strerror)
            self._full = True
            with suppress(OSError):
                os.ftruncate(self._file, 0)
        else:
            self._full = False

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(line)

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
        """Replace the file atomically with the entries that still count."""
        marks = {image: self._suspicion(image) for image in sorted(self.suspects)}
        marks |= dict.fromkeys(sorted(self.poison), _ALONE_AGAIN)
        marks |= self._in_hand
        fresh = path.with_name(f"{path.name}.new")
        lines = b"".join(_line(mark, image) for image, mark in marks.items())
        fresh.unlink(missing_ok=True)  # left by a process that died here, or a link
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
    """The file's bytes; empty if it is missing or not ours.

    Raises:
        OSError: our file can't be read.
    """
    try:
        # O_NONBLOCK: opening a pipe in the file's place would wait for a writer.
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
    """Each complete line's mark and coordinates."""
    lines = content.split(b"\n")[:-1]
    matches = [_LINE.fullmatch(line) for line in lines]
    if odd := matches.count(None):
        _log.warning("ignored %d of the %d lines of the journal %s: malformed", odd, len(lines), path)
    for match in matches:
        if match is not None:
            mark, topic, *numbers = (word.decode("ascii") for word in match.groups())
            yield mark, Coordinates(topic, *map(int, numbers))
