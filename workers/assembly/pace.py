"""The rate and the resume point of commands that send many events."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic_core import from_json

from workers.errors import Misconfigured

_SLOWEST = 0.001
"""Least events a second: no system sleeps for ever."""


def require_rate(rate: float | None) -> None:
    """
    Raises:
        Misconfigured: no events can be sent at this rate.
    """
    if rate is not None and not _SLOWEST <= rate < math.inf:
        raise Misconfigured(f"--rate {rate}: must be at least {_SLOWEST} events a second")


class Pace:
    """Limits events to `rate` a second, evenly; None: no limit."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def wait(self) -> None:
        """Wait until the next event may go."""
        if not self.ready():
            self._sleep(max(0.0, self._next - self._clock()))
        self.spend()

    def ready(self) -> bool:
        """Whether the next event may go now."""
        return self.rate is None or self._clock() >= self._next

    def spend(self) -> None:
        """Note that an event goes; at most a second is caught up."""
        if self.rate is not None:
            self._next = max(self._next, self._clock() - 1.0) + 1 / self.rate

    def batch(self, most: int) -> int:
        """Events per batch: a second's, at most `most`, so the place is noted each second."""
        return most if self.rate is None else max(1, min(most, int(self.rate)))


class ResumePoint:
    """How far a command came, in a file named after its arguments."""

    def __init__(self, folder: Path, command: Iterable[str]) -> None:
        name = hashlib.sha256(json.dumps(list(command)).encode()).hexdigest()[:16]
        self._path = folder / "emit" / f"{name}.json"

    def last(self) -> str:
        """The last key with an acknowledged event; may be empty."""
        try:
            return str(from_json(self._path.read_bytes())["last"])
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._unusable("read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"{self._path} can't be read ({error}); --again starts over") from error

    def note(self, key: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".new")
            scratch.write_text(json.dumps({"last": key}), encoding="utf-8")
            scratch.replace(self._path)
        except OSError as error:
            raise self._unusable("written", error) from error

    def forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("removed", error) from error

    def require_writable(self) -> None:
        """Check, before anything is sent, that the place can be noted.

        Raises:
            Misconfigured: the place could not be noted.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            raise self._unusable("written", error) from error

    def _unusable(self, how: str, error: OSError) -> Misconfigured:
        return Misconfigured(
            f"TAGSTREAM_STATE_DIR: {self._path} can't be {how}: {error.strerror}. "
            "Name a folder that this user may write."
        )
