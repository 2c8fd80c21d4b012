"""Tokens that a group may spend on a UTC day: reserved before a call, settled by what the call cost."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import redis

from schemas.printable import printable
from workers.errors import LargerThanReserved, Unavailable
from workers.files import read_regular_file

_KEPT_S: Final = 2 * 86400
_LINE_BYTES: Final = 32
_ADD: Final = """
local sum = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[2])) + tonumber(ARGV[1])
if tonumber(ARGV[3]) >= 0 and sum > tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], string.format('%d', math.max(0, sum)), 'EX', ARGV[4])
return 1
"""  # runs in the server, which may have forgotten what we know of
_FAULTS: Final = (redis.exceptions.RedisError, OSError, ValueError, LookupError)


class RedisCounter:
    """The sums of all workers of a group. Their keys are `prefix` and the day."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client, self._prefix = client, prefix
        self._add = client.register_script(_ADD)

    def add(self, day: str, tokens: int, *, least: int, most: int | None) -> bool:
        """Add tokens to the day's sum; False: it would be above `most`, and nothing is added.

        `least`: the sum before is at least this, whatever was kept of it. Raises Unavailable: it can't be changed.
        """
        asked = [tokens, least, -1 if most is None else most, _KEPT_S]
        try:
            return bool(self._add(keys=[self._prefix + day], args=asked))
        except _FAULTS as error:
            raise Unavailable(
                "redis", f"the day's tokens can't be counted in Redis ({printable(str(error))})"
            ) from None

    def sum(self, day: str) -> int:
        """The day's sum. Raises Unavailable: it is not known."""
        try:
            return int(self._client.get(self._prefix + day) or 0)
        except _FAULTS as error:
            raise Unavailable("redis", f"the day's tokens can't be read ({printable(str(error))})") from None


class FileCounter:
    """The last day's sum, in a file of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, day: str, tokens: int, *, least: int, most: int | None) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # closing it unlocks it
                last, kept = _read(file.read(_LINE_BYTES + 1))
                if last > day and most is None:
                    return True  # a call of the day before has ended
                total = max(kept if last >= day else 0, least) + tokens
                if most is not None and total > most:
                    return False
                os.pwrite(file.fileno(), f"{max(day, last)} {max(0, total):020d}\n".encode(), 0)
                return True
        except OSError as error:
            raise Unavailable("budget", f"tokens can't be counted in {self.path}: {error.strerror}") from None
        except ValueError:
            raise Unavailable("budget", f"{self.path} holds no day's tokens: remove it") from None

    def sum(self, day: str) -> int:
        try:
            last, kept = _read(read_regular_file(self.path, _LINE_BYTES) if self.path.exists() else b"")
        except (OSError, ValueError, LargerThanReserved):
            raise Unavailable("budget", f"{self.path} holds no day's tokens, or can't be read") from None
        return kept if last == day else 0


Counter: TypeAlias = RedisCounter | FileCounter


def _read(line: bytes) -> Reserved:
    """The day and its sum. Raises ValueError: it is no such line."""
    found = re.fullmatch(rb"(?:([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{20})\n)?", line)
    if found is None:
        raise ValueError("no day and sum")
    return Reserved((found[1] or b"").decode(), int(found[2] or 0))


class Reserved(NamedTuple):
    """Tokens of a day that a call may cost."""

    day: str
    tokens: int


def utc_day() -> str:
    """Today in UTC, such as 2026-12-01."""
    return datetime.now(UTC).date().isoformat()


class Budget:
    """The tokens of a day; without a counter no limit. Thread-safe."""

    def __init__(self, per_day: int, counter: Counter | None, today: Callable[[], str] = utc_day) -> None:
        self.per_day, self._counter, self._today = per_day, counter, today
        self._lock = threading.Lock()
        self._own: dict[str, int] = {}  # by day

    def reserve(self, tokens: int) -> Reserved | None:
        """Take tokens of today; None: fewer are left. Raises Unavailable: that is not known."""
        asked = Reserved(self._today(), tokens)
        return asked if self._add(asked, self.per_day) else None

    def settle(self, reserved: Reserved, spent: int) -> None:
        """Count what was spent in place of what was reserved."""
        with suppress(Unavailable):
            self._add(Reserved(reserved.day, spent - reserved.tokens), None)

    def _add(self, change: Reserved, most: int | None) -> bool:
        if self._counter is None:
            return True
        if not self._counter.add(change.day, change.tokens, least=self._own.get(change.day, 0), most=most):
            return False
        with self._lock:
            self._own[change.day] = self._own.get(change.day, 0) + change.tokens
        return True
