"""Temporary folders that are removed even if their owner was killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

_PREFIX = "tagstream-"
_LOCK = "owner.lock"
_ELSEWHERE = "elsewhere"
_REMOVAL_TRIES = 10


class Scratch:
    """One temporary folder, gone when closed.

    Its lock, which the kernel releases, shows that a folder's owner died; the next folder's owner sweeps it. Process
    ids would not do, because they repeat.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = _lock(self.path / _LOCK)

    def will_litter(self, paths: Iterable[Path]) -> None:
        """Name files outside the folder that are to be removed with it."""
        with (self.path / _ELSEWHERE).open("a") as names:
            names.writelines(f"{path}\n" for path in paths)

    def close(self) -> None:
        _remove(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def sweep(parent: Path) -> list[Path]:
    """Remove the folders of dead owners; returns the removed ones."""
    swept = []
    for folder in parent.glob(f"{_PREFIX}*"):
        with _adopted(folder) as ours:
            if ours:
                logger.info("removing %s, whose owner died", folder)
                _remove(folder)
                swept.append(folder)
    return swept


@contextlib.contextmanager
def _adopted(folder: Path) -> Iterator[bool]:
    lock = _lock(folder / _LOCK, create=False) if _is_of_this_user(folder) else None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _is_of_this_user(folder: Path) -> bool:
    """Whether the folder belongs to this user.

    Another user's folder could name files of ours to remove.
    """
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def _lock(path: Path, *, create: bool = True) -> int | None:
    """A descriptor with the lock, or None: its owner lives, we may not open it, or it is missing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for line in (folder / _ELSEWHERE).read_text().splitlines():
            Path(line).unlink(missing_ok=True)
    # The lock goes last, so that a removal that is cut short is finished by the next sweep.
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name == _LOCK:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    # A process that was just killed, or is about to be, may have written meanwhile.
    for _ in range(_REMOVAL_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
