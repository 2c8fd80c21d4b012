"""Files of the user: read within bounds, written as a whole."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from workers.errors import LargerThanReserved, Misconfigured


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears as a whole or not at all; the old one stays until then.

    Raises Misconfigured: it can't be written.
    """
    scratch = path.with_name(f"{path.name}.part")
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BrokenPipeError:
        raise  # of standard output
    except OSError as error:
        raise Misconfigured(f"{path} can't be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file: pipes and devices might never end.

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
    """Check that this folder is writable; it need not exist. Raises Misconfigured: it can't."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise Misconfigured(f"{folder} can't be written: {there} is no folder")
    try:
        with tempfile.TemporaryFile(dir=there):  # rights alone don't tell: root has them in /proc
            pass
    except OSError:
        why = f"{there} is read-only, or this user's rights are too few"
        raise Misconfigured(f"{folder} can't be written: {why}") from None


def lines_of(file: Path, longest: int) -> Generator[bytes, None, None]:
    """Lines without their ends; a line that is too long is cut beyond the limit. `-` is standard input."""

    def read(source: IO[bytes]) -> Iterator[bytes]:
        while line := source.readline(longest + 2):
            yield line.rstrip(b"\r\n")

    if str(file) == "-":
        yield from read(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as source:
            yield from read(source)
    except OSError as error:
        raise Misconfigured(f"{file} can't be read: {error.strerror}") from None


_LINE_BYTES = 4_096


def subjects_in(listed: Path) -> frozenset[str]:
    """Subjects that a file names, one BUCKET/KEY a line.

    Raises Misconfigured: a line is no BUCKET/KEY, or the file can't be read or names no image.
    """
    lines = enumerate(lines_of(listed, _LINE_BYTES), 1)
    named = {number: line.decode(errors="replace") for number, line in lines if line}
    if not named:
        raise Misconfigured(f"{listed} names no image")
    for number, name in named.items():
        require_subject(f"{listed}, line {number}", name)
    return frozenset(named.values())


def require_subject(where: str, name: str) -> None:
    bucket, _, key = name.partition("/")
    if not bucket or not key:
        raise Misconfigured(f"{where}: {name!r} is no BUCKET/KEY")
