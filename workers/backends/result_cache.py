"""The result cache in Redis (or Valkey), by redis-py."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import redis

from schemas.printable import printable
from workers import metrics
from workers.backends.redis_client import redis_client
from workers.breaker import STATES, Breaker
from workers.errors import Misconfigured, Unavailable
from workers.settings import place

Item = TypeVar("Item")
Name = TypeVar("Name", str, tuple[str, str])

Command: TypeAlias = tuple[str | bytes | int, ...]

_CHUNK = 128
"""Keys, fields or values of one call: few enough for its time limit, though all be large."""
MAX_VALUE_BYTES = 1024 * 1024
"""The longest value. Ours have a few kB; the scores of 100,000 labels would have 800 kB."""
MAX_CALL_BYTES = 32 * 1024 * 1024
"""The most bytes of all values of one call together."""

_LOOKUP = """
local most, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local values = {}
for number, name in ipairs(KEYS) do
    local field, size, value = ARGV[number + 2], 0, false
    if field then size = redis.pcall('HSTRLEN', name, field) else size = redis.pcall('STRLEN', name) end
    if type(size) == 'number' and size > 0 then
        if size > most or size > room then value = size
        elseif field then value = redis.call('HGET', name, field)
        else value = redis.call('GET', name) end
        if value ~= size then room = room - size end
    end
    values[number] = value
end
return values
"""
"""Runs in the server: the values of keys, or of a field of each; in place of one above the bounds, its size."""

MAX_FIELDS = 10_000
"""The most fields of a hash that is read whole."""
_HASHES = """
local room, answers = tonumber(ARGV[1]), {}
for number, name in ipairs(KEYS) do
    local whole, size, length = {}, 0, redis.pcall('HLEN', name)
    if type(length) == 'number' and length <= tonumber(ARGV[2]) then
        whole = redis.call('HGETALL', name)
        for _, part in ipairs(whole) do size = size + #part end
    end
    if size > room then whole = {} else room = room - size end
    answers[number] = whole
end
return answers
"""
"""Runs in the server: fields and values of each hash in turn; of one above the bounds, none."""

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.AuthenticationError, "auth"),
    (redis.exceptions.AuthorizationError, "auth"),
    (redis.exceptions.NoPermissionError, "auth"),
    (redis.exceptions.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (redis.exceptions.BusyLoadingError, "loading"),
    (redis.exceptions.ConnectionError, "connection"),
    (OSError, "connection"),
    (redis.exceptions.OutOfMemoryError, "full"),
    (redis.exceptions.ReadOnlyError, "readonly"),
    (redis.exceptions.ResponseError, "refused"),
    (redis.exceptions.RedisError, "garbage"),
    (ValueError, "garbage"),
    (LookupError, "garbage"),
)
"""What each of a dependency's faults is called in `metrics.CACHE_ERRORS`; the first that fits. A call that the open
breaker stopped is `paused`."""

_FAULTS = tuple(error for error, _ in _CAUSES)


class RedisResultCache:
    """`ports.ResultCache` on one Redis server. Thread-safe.

    A call that fails opens a breaker: from then on calls are misses at once, until a probe in a thread of its own has
    had an answer. So a server that hangs costs a caller `timeout_s` once, and no caller is ever spent on probing. A
    value that is larger than any of ours opens nothing: it is its writer's fault, and our next write puts
    things right.

    Args:
        url: redis://, rediss:// or unix://; may hold a password, which is never shown.
        ttl_s: how long entries live; a hash lives so long from its last write.
        now: the current URL, called for each connection; only its user and password may change.

    Raises:
        Misconfigured: the URL can't be read.
    """

    def __init__(self, url: str, *, ttl_s: float, timeout_s: float = 0.1, now: Callable[[], str] | None = None) -> None:
        self._shown = place(url)
        self._timeout_s = timeout_s
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._client = redis_client(url, timeout_s, now)
        self._script = self._client.register_script(_LOOKUP)
        self._hashes = self._client.register_script(_HASHES)
        self._breaker = ProbingBreaker(self._shown, self._answers)

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        return [value for chunk in _chunks(keys) for value in self._look_up(chunk, ())]

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        return [
            value
            for chunk in _chunks(fields)
            for value in self._look_up([name for name, _ in chunk], [field for _, field in chunk])
        ]

    def _look_up(self, names: Sequence[str], fields: Sequence[str]) -> list[bytes | None]:
        answer = self._call(lambda: self._script(keys=names, args=[MAX_VALUE_BYTES, MAX_CALL_BYTES, *fields]))
        return _values(answer, len(names))

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        commands: list[Command] = [("SET", key, value, "PX", self._ttl_ms) for key, value in _kept(values).items()]
        kept = _kept(fields)
        commands += [("HSET", name, field, value) for (name, field), value in kept.items()]
        commands += [("PEXPIRE", name, self._ttl_ms) for name in dict.fromkeys(name for name, _ in kept)]
        for chunk in _chunks(commands):
            self._write(chunk)

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        found: list[dict[str, bytes]] = []
        for chunk in _chunks(names):
            answer = self._call(partial(self._hashes, keys=chunk, args=[MAX_CALL_BYTES, MAX_FIELDS]))
            valid = isinstance(answer, list) and len(answer) == len(chunk)
            found += [_fields(each) for each in answer] if valid else [{} for _ in chunk]
        return found

    def forget(self, names: Sequence[str]) -> None:
        for chunk in _chunks(names):
            self._write([("DEL", *chunk)])

    def names(self, prefix: str) -> Iterator[list[str]]:
        """The names of all entries that begin so; a name may come twice.

        Raises Unavailable, Misconfigured: the server gives no answer, or refuses.
        """
        cursor, pattern = 0, re.sub(r"([][*?\\])", r"\\\1", prefix) + "*"
        while True:
            cursor, found = self._asked(partial(self._client.scan, cursor, match=pattern, count=500))
            yield [name.decode(errors="replace") for name in found]
            if cursor == 0:
                return

    def remove(self, names: Sequence[str]) -> int:
        """Remove entries; returns how many were there.

        Raises Unavailable, Misconfigured: the server gives no answer, or refuses.
        """
        chunks = [("DEL", *chunk) for chunk in _chunks(names)]
        return sum(self._asked(partial(self._client.execute_command, *chunk)) for chunk in chunks)

    def _write(self, commands: Sequence[Command]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        for answer in self._call(lambda: pipeline.execute(raise_on_error=False)) or ():
            if isinstance(answer, Exception):
                metrics.CACHE_ERRORS.add(cause=_cause(answer))

    def close(self) -> None:
        self._breaker.close()
        self._client.close()
        self._client.connection_pool.disconnect()

    def check(self) -> None:
        """Ping the server, without the breaker.

        Raises:
            Misconfigured: the server refuses the user or the password.
            Unavailable: no answer within `timeout_s`, or not Redis' answer.
        """
        self._asked(self._ping)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """The server's answer, without the breaker. Raises: as `check` says."""
        try:
            return ask()
        except _FAULTS as error:
            cause = _cause(error)
            if cause == "auth":
                raise Misconfigured(f"{self._shown} refuses the user or the password in TAGSTREAM_REDIS_URL") from None
            raise Unavailable(
                "redis",
                f"{self._shown} gave no valid answer within {self._timeout_s:g} s ({error}). "
                "Is TAGSTREAM_REDIS_URL right, and the server running?",
            ) from None

    def _call(self, ask: Callable[[], Any]) -> Any:
        if not self._breaker.closed():
            metrics.CACHE_ERRORS.add(cause="paused")
            return None
        try:
            answer = ask()
        except redis.exceptions.ResponseError as error:
            metrics.CACHE_ERRORS.add(cause=_cause(error))
            return None
        except _FAULTS as error:
            cause = _cause(error)
            metrics.CACHE_ERRORS.add(cause=cause)
            self._breaker.failure(f"{cause} ({printable(str(error))})")
            return None
        self._breaker.success()
        return answer

    def _ping(self) -> None:
        """Raises one of `_FAULTS`: the server gives no answer, or refuses."""
        if self._client.execute_command("PING") is not True:  # type: ignore[no-untyped-call]
            raise redis.exceptions.InvalidResponse("a wrong answer to PING")

    def _answers(self) -> bool:
        try:
            self._ping()
        except Exception:  # noqa: BLE001  # without the probing thread the breaker would stay open for ever
            return False
        return True


def _cause(error: Exception) -> str:
    return next(cause for kind, cause in _CAUSES if isinstance(error, kind))


def _kept(values: Mapping[Name, bytes]) -> dict[Name, bytes]:
    """The values small enough to be read back; others are counted."""
    kept = {name: value for name, value in values.items() if len(value) <= MAX_VALUE_BYTES}
    if len(kept) < len(values):
        metrics.CACHE_ERRORS.add(len(values) - len(kept), cause="too-large")
    return kept


def _fields(answer: Any) -> dict[str, bytes]:
    if not isinstance(answer, list) or not all(isinstance(part, bytes) for part in answer):
        return {}
    return {name.decode(errors="replace"): value for name, value in zip(answer[::2], answer[1::2], strict=False)}


def _values(answer: Any, asked: int) -> list[bytes | None]:
    """The answer of `_LOOKUP`, if it is one."""
    if answer is None:
        return [None] * asked
    if not isinstance(answer, list) or len(answer) != asked:
        metrics.CACHE_ERRORS.add(cause="garbage")
        return [None] * asked
    if too_large := sum(isinstance(value, int) for value in answer):
        metrics.CACHE_ERRORS.add(too_large, cause="too-large")
    return [value if isinstance(value, bytes) else None for value in answer]


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


logger = logging.getLogger(__name__)


class ProbingBreaker:
    """Open after one failure; closed by a successful probe. Thread-safe. Shown in `metrics.BREAKERS` until `close`.

    Probes come after `first_pause_s`, then after twice the pause before, up to `last_pause_s`. Only successful calls
    reset the pause: a dependency that answers probes and fails calls is left alone for longer and longer.

    Args:
        name: the server behind it, for the log.
        probe: whether the dependency answers. Must be bounded in time and not raise.
    """

    def __init__(
        self, name: str, probe: Callable[[], bool], *, first_pause_s: float = 0.2, last_pause_s: float = 5.0
    ) -> None:
        self._name = name
        self._probe = probe
        self._lock = threading.Lock()
        self._breaker = Breaker(first_pause_s, last_pause_s, opens_after=1, jitter=0.0)
        self._closing = threading.Event()
        metrics.BREAKERS.add(self._states)

    def closed(self) -> bool:
        """Whether calls may go through."""
        return self._breaker.state == "closed"

    def success(self) -> None:
        """Note an answered call; only a probe closes an open breaker."""
        with self._lock:
            if self.closed():
                self._breaker.succeeded(time.monotonic())

    def failure(self, cause: str) -> None:
        """Open, unless it is open."""
        with self._lock:
            if self._closing.is_set() or not self._breaker.failed(self._name, time.monotonic()):
                return
        logger.warning("%s failed: %s; continuing without it until it answers a probe", self._name, cause)
        try:
            threading.Thread(target=self._probe_until_well, name="tagstream-probe", daemon=True).start()
        except RuntimeError as error:  # no thread is left: the next failure tries to start one again
            logger.warning("no thread to probe %s can be started, so it is tried at once: %s", self._name, error)
            with self._lock:
                self._breaker.probe_answered(time.monotonic())

    def close(self) -> None:
        """Stop probing and leave the metrics."""
        self._closing.set()
        metrics.BREAKERS.remove(self._states)

    def _states(self) -> list[metrics.Reading]:
        now = self._breaker.state
        return [(float(state == now), {"dependency": "redis", "state": state}) for state in STATES]

    def _probe_until_well(self) -> None:
        answered = False
        while not answered and not self._closing.wait(self._breaker.pause_s(time.monotonic())):
            with self._lock:
                self._breaker.probe(time.monotonic())
            answered = self._probe()
            if answered:
                logger.info("%s is back", self._name)
            with self._lock:
                (self._breaker.probe_answered if answered else self._breaker.probe_failed)(time.monotonic())
