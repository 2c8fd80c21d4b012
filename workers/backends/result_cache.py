"""The result cache in Redis (or Valkey). Nothing but this and `resp` knows redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from workers import metrics
from workers.backends import resp
from workers.backends.probing_breaker import ProbingBreaker
from workers.backends.resp import Command
from workers.errors import Misconfigured, Unavailable
from workers.settings import place

Item = TypeVar("Item")
Name = TypeVar("Name", str, tuple[str, str])

_CHUNK = 128
"""Keys, fields or values of one call: few enough for its time limit, though all be large, and for `resp`'s bounds."""

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.AuthenticationError, "auth"),
    (redis.exceptions.AuthorizationError, "auth"),
    (redis.exceptions.NoPermissionError, "auth"),
    (redis.exceptions.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (resp.ReplyTooLarge, "too-large"),
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

_OPTIONS = (
    *("client_name", "db", "host", "password", "path", "port", "username", "socket_keepalive"),
    *("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers"),
    *("ssl_keyfile", "ssl_min_version", "ssl_password"),
)
"""What a URL may say. redis-py would take more, and expects functions and objects under some of these names."""
_OURS = (
    *("decode_responses", "health_check_interval", "max_connections", "protocol", "retry_on_timeout"),
    *("socket_connect_timeout", "socket_timeout", "timeout"),
)
"""What a URL may say for other programs, and is decided here."""


class RedisResultCache:
    """`ports.ResultCache` on one Redis server. Thread-safe.

    A call that fails opens a breaker: from then on calls are misses at once, until a probe in a thread of its own has
    had an answer. So a server that hangs costs a caller `timeout_s` once, and no caller is ever spent on probing. A
    value that is larger than any of ours opens nothing: it is its writer's fault, and our next write puts
    things right.

    Args:
        url: redis://, rediss:// or unix://; may hold a password, which is never shown.
        ttl_s: how long entries live; a hash lives so long from its last write.
        timeout_s: wall clock of one call (of at most `_CHUNK` entries) from connecting to its last byte.
        now: the URL as it is at the moment, asked for each connection; only its user and password may change.

    Raises:
        Misconfigured: the URL can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        timeout_s: float = 0.1,
        now: Callable[[], str] | None = None,
    ) -> None:
        self._shown = place(url)
        self._timeout_s = timeout_s
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._connections = _connections(url, timeout_s, now)
        self._breaker = ProbingBreaker(self._shown, self._answers)

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        return [
            value
            for chunk in _chunks(keys)
            for [answer] in [self._call([("MGET", *chunk)])]
            for value in _values(answer, chunk)
        ]

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        found: dict[tuple[str, str], bytes | None] = {}
        for chunk in _chunks(list(dict.fromkeys(fields))):
            hashes: dict[str, list[str]] = {}
            for name, field in chunk:
                hashes.setdefault(name, []).append(field)
            answers = self._call([("HMGET", name, *names) for name, names in hashes.items()])
            for (name, names), answer in zip(hashes.items(), answers, strict=True):
                found.update(zip(((name, field) for field in names), _values(answer, names), strict=True))
        return [found[pair] for pair in fields]

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        commands: list[Command] = [("SET", key, value, "PX", self._ttl_ms) for key, value in _kept(values).items()]
        kept = _kept(fields)
        commands += [("HSET", name, field, value) for (name, field), value in kept.items()]
        commands += [("PEXPIRE", name, self._ttl_ms) for name in dict.fromkeys(name for name, _ in kept)]
        for chunk in _chunks(commands):
            self._call(chunk)

    def forget(self, hashes: Sequence[str]) -> None:
        for chunk in _chunks(hashes):
            self._call([("DEL", *chunk)])

    def close(self) -> None:
        self._breaker.close()
        self._connections.close()

    def check(self) -> None:
        """Ask for a sign of life, without the breaker.

        Raises:
            Misconfigured: the server refuses the user or the password.
            Unavailable: no answer within `timeout_s`, or not Redis' answer.
        """
        try:
            self._ping()
        except _FAULTS as error:
            cause = _cause(error)
            if cause == "auth":
                raise Misconfigured(f"{self._shown} refuses the user or the password in TAGSTREAM_REDIS_URL") from None
            raise Unavailable(
                "redis",
                f"{self._shown} gave no good answer within {self._timeout_s:g} s ({error}). "
                "Is TAGSTREAM_REDIS_URL right, and the server running?",
            ) from None

    def _call(self, commands: Sequence[Command]) -> list[Any]:
        """One answer a command; None where there is none. What went wrong is counted."""
        answers = self._exchange(commands) if self._breaker.closed() else _paused(commands)
        return [self._unless_refused(answer) for answer in answers]

    def _exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            answers = self._connections.exchange(commands, self._timeout_s)
        except resp.ReplyTooLarge as error:
            metrics.CACHE_ERRORS.add(cause=_cause(error))
            return [None] * len(commands)
        except _FAULTS as error:
            cause = _cause(error)
            metrics.CACHE_ERRORS.add(cause=cause)
            self._breaker.failure(f"{cause} ({error})")
            return [None] * len(commands)
        self._breaker.success()
        return answers

    def _unless_refused(self, answer: Any) -> Any:
        if not isinstance(answer, Exception):
            return answer
        metrics.CACHE_ERRORS.add(cause=_cause(answer))
        return None

    def _ping(self) -> None:
        """
        Raises:
            One of `_FAULTS`: the server gives no answer, or refuses.
        """
        [answer] = self._connections.exchange([("PING",)], self._timeout_s)
        if isinstance(answer, Exception):
            raise answer
        if answer != b"PONG":
            raise redis.exceptions.InvalidResponse("a wrong answer to PING")

    def _answers(self) -> bool:
        try:
            self._ping()
        except _FAULTS:
            return False
        return True


class _Login(redis.CredentialProvider):
    """User and password of a URL that may change."""

    def __init__(self, now: Callable[[], str]) -> None:
        self._now = now

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            options = parse_url(self._now())  # type: ignore[no-untyped-call]
        except ValueError:  # its text may quote the password
            raise redis.exceptions.AuthenticationError("TAGSTREAM_REDIS_URL can't be read any more") from None
        password = options.get("password", "")
        return (options["username"], password) if "username" in options else (password,)


def _connections(url: str, timeout_s: float, now: Callable[[], str] | None) -> resp.Connections:
    try:
        options = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:  # its text may quote the password
        raise Misconfigured(
            "TAGSTREAM_REDIS_URL can't be read: it must be redis://[user:password@]host:port/db, in whose user and "
            "password / ? # and @ are written %2F %3F %23 and %40"
        ) from None
    kind = options.pop("connection_class", Connection)
    for name in _OURS:
        options.pop(name, None)
    if not options.keys() <= {*_OPTIONS}:  # not quoted: behind a password's ? it is a part of the password
        raise Misconfigured(
            f"TAGSTREAM_REDIS_URL has an option that does not work; those that do are {', '.join(_OPTIONS)}"
        )
    if now is not None and options.get("password"):
        for replaced in ("username", "password"):
            options.pop(replaced, None)
        options["credential_provider"] = _Login(now)
    try:
        return resp.Connections(kind, options | _settled(timeout_s))
    except (TypeError, ValueError, LookupError, redis.exceptions.RedisError) as error:
        raise Misconfigured(f"TAGSTREAM_REDIS_URL has an option that does not work: {error}") from None


def _settled(timeout_s: float) -> dict[str, Any]:
    """What a URL does not decide.

    RESP2 without notifications and the library's name needs no handshake, which would be round trips on a caller's
    clock.
    """
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _cause(error: Exception) -> str:
    return next(cause for kind, cause in _CAUSES if isinstance(error, kind))


def _paused(commands: Sequence[Command]) -> list[None]:
    metrics.CACHE_ERRORS.add(cause="paused")
    return [None] * len(commands)


def _kept(values: Mapping[Name, bytes]) -> dict[Name, bytes]:
    """The values that are small enough to be read back; the others are counted."""
    kept = {name: value for name, value in values.items() if len(value) <= resp.MAX_VALUE_BYTES}
    if len(kept) < len(values):
        metrics.CACHE_ERRORS.add(len(values) - len(kept), cause="too-large")
    return kept


def _values(answer: Any, names: Sequence[str]) -> list[bytes | None]:
    """An answer to MGET or HMGET, if it is one."""
    if answer is None:
        return [None] * len(names)
    if not isinstance(answer, list) or len(answer) != len(names):
        metrics.CACHE_ERRORS.add(cause="garbage")
        return [None] * len(names)
    return [value if isinstance(value, bytes) else None for value in answer]


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
