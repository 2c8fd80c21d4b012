"""Files of JSON lines with a head: of changes, choices and a review."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.files import lines_of

_Head = TypeVar("_Head", bound=BaseModel)
_Line = TypeVar("_Line", bound=BaseModel)
_Any = TypeVar("_Any")
Lines: TypeAlias = Generator[tuple[str, _Any], None, None]
"""Each line with its place for errors."""


def read_lines(
    path: Path, head: type[_Head], line: type[_Line], longest: int, otherwise: str
) -> tuple[_Head, Lines[_Line]]:
    """A file's head, and its further lines with their places.

    Args:
        longest: bytes of a line.
        otherwise: what the file is if its first line is of another kind.

    Raises:
        Misconfigured: it can't be read, is of another kind, or is damaged in this line; the lines also raise it.
    """
    written = _written(path, longest)
    try:
        first = head.model_validate_json(next(written, ("", b""))[1])
    except ValidationError as error:
        raise Misconfigured(f"{path} {otherwise}: line 1: {first_fault(error)}") from None
    return first, _lines(written, line)


def _written(path: Path, longest: int) -> Lines[bytes]:
    with closing(lines_of(path, longest)) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}, line {number}", line


def _lines(written: Lines[bytes], model: type[_Line]) -> Lines[_Line]:
    with closing(written):
        for where, each in written:
            try:
                yield where, model.model_validate_json(each)
            except ValidationError as error:
                raise Misconfigured(f"{where}: {first_fault(error)}") from None
