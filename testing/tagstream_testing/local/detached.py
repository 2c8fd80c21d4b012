"""A stack without a terminal: `tagstream stack up --detach` starts it, `stack env` finds it, `stack down` ends it.

A process holds it, and a state file tells where its servers are. That process holds the file's lock as long as it
lives, so a file that is left of a dead one is known by its lock; process ids would not do, since they come again. And
the stack lives as long as the file is there: to end it the file is removed, and its process sees that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic_core import from_json

from tagstream_testing.local.scratch import sweep
from tagstream_testing.local.server import CannotStart
from workers.errors import Misconfigured, TagstreamError

_LOG_LINES = 15
_POLL_S = 0.05
_ENDS_WITHIN_S = 30.0
_LOCK_WITHIN_S = 2.0
"""Commands that look at a state file may have its lock for a moment."""
_MOST_BYTES = 64 * 1024


class NotUp(TagstreamError):
    """No detached stack answers; the text says the reason."""


class Held:
    """The state file of this process's own stack, while it runs.

    Raises:
        Misconfigured: another process holds it: a stack is up already. Or it is no file of this user.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _create_and_lock(path)
        os.fchmod(self._descriptor, 0o600)
        os.ftruncate(self._descriptor, 0)

    @property
    def wanted(self) -> bool:
        """Whether the stack should keep running: `stack down` removes the file."""
        return _is_at(self._path, self._descriptor)

    def announce(self, environment: Mapping[str, str]) -> None:
        """The servers answer; this is how they are reached."""
        content = json.dumps({"pid": os.getpid(), "environment": dict(environment)}, indent=1)
        os.pwrite(self._descriptor, content.encode(), 0)

    def close(self) -> None:
        """After the servers have ended: a waiting command gets the lock."""
        if self.wanted:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:  # else the file stays, to tell that there was a stack, which ended by itself
            self.close()


class Detached:
    """The detached stack of a folder, as other commands see it.

    Args:
        folder: for its state file, which holds the store's keys and is therefore ours alone to read, and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stack.json"
        self._log = folder / "stack.log"

    def up(self) -> bool:
        """Start it, unless it is up, and return when its servers answer. A Ctrl-C meanwhile ends it again.

        Returns:
            Whether it was started.

        Raises:
            CannotStart: with what its process said last.
            Misconfigured: the folder can't be written.
        """
        found = self._look()
        if found is not None and found.runs:
            self._wait_for(None)
            return False
        process = self._spawn()
        try:
            self._wait_for(process)
        except KeyboardInterrupt:
            process.terminate()
            raise
        return True

    def environment(self) -> Mapping[str, str]:
        """By their names, the settings that lead to its servers.

        Raises:
            NotUp: it is not up.
        """
        found = self._look()
        if found is None:
            raise NotUp("no detached stack is up: `tagstream stack up --detach` starts one")
        if not found.runs:
            raise NotUp(
                f"the detached stack ended by itself; `tagstream stack up --detach` starts another. {self._told()}"
            )
        if not found.environment:
            raise NotUp("the detached stack is still starting: ask again in some seconds")
        return found.environment

    def down(self) -> bool:
        """End the stack, and remove what one that ended by itself left.

        Returns:
            Whether there was one to end.

        Raises:
            NotUp: its process does not end.
        """
        self._clear()
        with _opened(self._path) as descriptor:
            if descriptor is None:
                return False
            pid = _read(descriptor).pid
            self._path.unlink(missing_ok=True)
            deadline = time.monotonic() + _ENDS_WITHIN_S
            while not _locked(descriptor):
                if time.monotonic() > deadline:
                    raise NotUp(f"its process {pid or '(unknown)'} does not end: kill it, and no server is left")
                time.sleep(_POLL_S)
        return True

    def _look(self) -> _Found | None:
        with _opened(self._path) as descriptor:
            if descriptor is None:
                return None
            runs = not _locked(descriptor)
            return _read(descriptor) if runs else _Found(runs=False)

    def _clear(self) -> None:
        """Remove an ended stack's file, which would count as the next one's."""
        with _opened(self._path) as descriptor:
            if descriptor is not None and _locked(descriptor):
                self._path.unlink(missing_ok=True)
                sweep(Path(tempfile.gettempdir()))

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._clear()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._log.unlink(missing_ok=True)  # a link would lead elsewhere
            log = self._log.open("xb")
        except OSError as error:
            raise Misconfigured(f"{self._log} can't be written: {error.strerror}") from error
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "workers", "stack", "up", "--state", self._path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for(self, process: subprocess.Popen[bytes] | None) -> None:
        """Until its servers answer. The first start downloads programs, so there is no limit but the process's end."""
        while True:
            ended = process is not None and process.poll() is not None
            found = self._look()
            if found is not None and found.runs:  # by another command's process perhaps, started at the same time
                if found.environment:
                    return
            elif ended or process is None:
                raise CannotStart(f"the stack did not start. {self._told()}")
            time.sleep(_POLL_S)

    def _told(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            lines = []
        return f"{self._log} ends with:\n" + "\n".join(lines) if lines else f"{self._log} is empty."


@dataclass(frozen=True, slots=True)
class _Found:
    """A state file's content; without an environment while the servers start."""

    runs: bool
    pid: int | None = None
    environment: Mapping[str, str] | None = None


def _read(descriptor: int) -> _Found:
    """The state of a running stack. An unreadable file is not written yet."""
    try:
        content = from_json(os.pread(descriptor, _MOST_BYTES, 0))
        environment = {str(name): str(value) for name, value in content["environment"].items()}
        pid = int(content["pid"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return _Found(runs=True)
    # They end in a shell, where a name such as BASH_ENV would run what another file holds.
    if not all(re.fullmatch("TAGSTREAM_[A-Z0-9_]+", name) and text.isprintable() for name, text in environment.items()):
        return _Found(runs=True)
    return _Found(True, pid, environment)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = _open(path, 0)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """
    Raises:
        FileNotFoundError: it is not there, and `flags` make no new one.
        Misconfigured: it can't be opened, or another user may have made it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Misconfigured(f"{path} can't be opened: {error.strerror}") from error
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    raise Misconfigured(f"{path} is no file of yours: remove it, or let TAGSTREAM_STATE_DIR name another folder")


def _create_and_lock(path: Path) -> int:
    deadline = time.monotonic() + _LOCK_WITHIN_S
    while True:
        descriptor = _open(path, os.O_CREAT)
        if _locked(descriptor) and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # another command looks at it, or has just removed it
        if time.monotonic() > deadline:
            raise Misconfigured("a detached stack is up already; `tagstream stack down` ends it")
        time.sleep(_POLL_S)


def _locked(descriptor: int) -> bool:
    """Whether we could have the lock, and have it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
