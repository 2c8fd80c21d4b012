"""Lists that a command takes as a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from workers.errors import Misconfigured

_LINE_BYTES = 4_096


def subjects_in(listed: Path) -> frozenset[str]:
    """Subjects that a file names, one BUCKET/KEY a line.

    Raises:
        Misconfigured: a line is no BUCKET/KEY, or the file can't be read or names no image.
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


def lines_of(file: Path, longest: int) -> Iterator[bytes]:
    """Lines without their ends; a line that is too long is cut beyond the limit."""

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
