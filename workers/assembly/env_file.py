"""Reads a file of settings for `tagstream --env-file`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers.errors import Misconfigured

LARGEST_BYTES = 1 << 20
_COMPLAINTS = 20
"""The most complaints about one file."""
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,99})=(.*)", re.DOTALL)
_PIECE = re.compile(r"""'([^']*+)'|"((?:[^"\\]++|\\.)*+)"|\\(.)|([^\s'"\\]++)""")
"""A part of a value, as in a shell: in single quotes, in double quotes, behind a backslash, or bare.

Nothing that was matched is given back, so a quote without an end costs one look at the line."""
_ESCAPE = re.compile(r'\\(["\\$`])')
_REST = re.compile(r"\s*(\s#.*)?")
_FILE = "_FILE"


def load_env_file(path: Path) -> None:
    """Set the file's variables in this process's environment, where unset.

    Raises Misconfigured: a line for everything that is wrong with it; nothing was set then. Values are not named.
    """
    for name, value in parse_env_file(_text(path), str(path)).items():
        names = (name, name.removesuffix(_FILE), f"{name}{_FILE}")
        if not any(os.environ.get(each, "").strip() for each in names):
            os.environ[name] = value


def parse_env_file(text: str, source: str) -> Mapping[str, str]:
    """The variables of `NAME=value` lines; the later value of a repeated name.

    Lines are read as a shell reads them, but nothing is expanded: `$` is a `$`.

    Args:
        source: the file's name, for complaints.

    Raises:
        Misconfigured: a line for each that can't be read, and for each unknown setting.
    """
    found: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(wrong) == _COMPLAINTS:
            break
        try:
            name, value = _assignment(line.rstrip("\r"))
            found[name] = value
        except ValueError as error:
            wrong.append(f"{source}:{number}: {error}")
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return found


def _text(path: Path) -> str:
    """The file, which may be a pipe too."""
    from workers.settings import expanded

    try:
        with expanded(path).open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"--env-file {path} can't be read: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise Misconfigured(f"--env-file {path} has more than {LARGEST_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misconfigured(f"--env-file {path} is not text in UTF-8") from error


def _assignment(line: str) -> tuple[str, str]:
    from workers.environment import unknown

    parts = _ASSIGNMENT.fullmatch(line)
    if parts is None:
        raise ValueError("not NAME=value")
    name, value = parts[1], "".join(_pieces(parts[2]))
    if complaint := unknown(name):
        raise ValueError(complaint)
    if "\0" in value:
        raise ValueError(f"{name} has a NUL character")
    return name, value


def _pieces(text: str) -> Iterator[str]:
    at = 0
    while piece := _PIECE.match(text, at):
        single, double, escaped, bare = piece.groups()
        yield _ESCAPE.sub(r"\1", double) if double is not None else single or escaped or bare or ""
        at = piece.end()
    if not _REST.fullmatch(text, at):
        raise ValueError("quote a value with spaces, and close the quote on the same line")
