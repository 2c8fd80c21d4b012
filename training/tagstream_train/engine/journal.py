"""A file of answers, from which an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from tagstream_train.plan import Exact
from workers.errors import Misconfigured

Line = TypeVar("Line", bound=Exact)


class Journal(Generic[Line]):
    """Lines of one kind below a line with their run's identity."""

    def __init__(self, path: Path, kind: type[Line], identity: Mapping[str, object]) -> None:
        """Drops a last line that a kill or a crash cut off.

        Raises:
            Misconfigured: the file is of another run.
        """
        self._path, self._kind = path, kind
        self.last: Line | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps(identity).encode() + b"\n"
        with path.open("a+b") as file:
            file.seek(0)
            found = file.readline()
            if not found.endswith(b"\n"):
                file.truncate(0)
                file.write(head)
                return
            if found != head:
                raise Misconfigured(
                    f"{path} has answers of other models or options, or to another set: remove it, or write to "
                    "another folder."
                )
            end = len(head)
            for line in file:
                try:
                    found_line = kind.model_validate_json(line)
                except ValidationError:
                    break
                if line.endswith(b"\n"):
                    self.last, end = found_line, end + len(line)
            file.truncate(end)

    def __iter__(self) -> Iterator[Line]:
        with self._path.open("rb") as file:
            yield from map(self._kind.model_validate_json, islice(file, 1, None))

    def write(self, lines: Sequence[Line]) -> None:
        with self._path.open("ab") as file:
            file.writelines(line.model_dump_json(exclude_none=True).encode() + b"\n" for line in lines)
