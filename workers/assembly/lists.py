"""Lists that a command takes as a file or from standard input."""

from __future__ import annotations

from pathlib import Path

from workers.errors import Misconfigured
from workers.files import lines_of

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
