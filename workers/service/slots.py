"""A number that no other process of this host has: the first free slot, held by a lock file."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from workers.errors import Misconfigured


class Slot:
    """The first number whose lock file no process holds. The kernel gives it back when the process ends.

    Raises:
        Misconfigured: the folder can't be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.number, self._file = _first_free(folder, quote(name, safe=""))
        except OSError as error:
            raise Misconfigured(
                f"TAGSTREAM_STATE_DIR: {error.filename or folder} can't be written: {error.strerror}. "
                "Name a folder that this user may write."
            ) from error

    def close(self) -> None:
        """Give the number back. The file stays: to remove it would let two hold the same name."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Slot {self.number} in {self._folder}>"


def _first_free(folder: Path, name: str) -> tuple[int, int]:
    number = 0
    while (file := _lock(folder / f"{name}.{number}.lock")) is None:
        number += 1
    return number, file


def _lock(path: Path) -> int | None:
    """The locked file's descriptor; None when another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # flock and not lockf: the latter is lost when any other descriptor of the file is closed in this process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def default_transactional_id(group: str, slot: Slot) -> str:
    """Group, host and slot: stable over restarts on this host, and different for each process on it."""
    return f"{group}-{socket.gethostname()}-{slot.number}"
