"""Writes files as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from workers.errors import Misconfigured


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces the old one at the end.

    Raises:
        Misconfigured: it can't be written.
    """
    scratch = path.with_name(f"{path.name}.part")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise Misconfigured(f"{path} can't be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()
