"""Connections to Redis, with one time-out for name and addresses."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from workers.errors import Misconfigured

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


class _Named(Connection):
    """A connection with one time-out for the name and all its addresses.

    Each address has an equal share of the time that is left.
    """

    def _connect(self) -> Any:
        until = time.monotonic() + (self.socket_connect_timeout or 0)
        error = OSError("the name has no address")
        found = _resolved(self.host, self.port, self.socket_connect_timeout or 0)
        for number, address in enumerate(found):
            share_s = (until - time.monotonic()) / (len(found) - number)
            try:
                return self._connect_to(address, max(_SHORTEST_S, share_s))
            except OSError as failed:
                error = failed
        raise error

    def _connect_to(self, address: str, within_s: float) -> Any:
        before = self.host, self.socket_connect_timeout
        self.host, self.socket_connect_timeout = address, within_s
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.host, self.socket_connect_timeout = before


class _NamedTls(SSLConnection, _Named):
    """The same over TLS."""


_SHORTEST_S = 0.001
_resolving = threading.Lock()
_lookups: Final[dict[tuple[str, int], Future[list[str]]]] = {}
"""Running lookups, and answers that came too late."""


def _resolved(name: str, port: int, within_s: float) -> list[str]:
    """The addresses of a name. Thread-safe.

    `getaddrinfo` has no time-out and takes minutes while name servers are away, so a thread waits for it. A late answer
    serves the next call: otherwise a name that takes longer than `within_s` would never be found.

    Raises:
        TimeoutError: no answer within `within_s`.
        OSError, ValueError: the name has no address, or no thread is left to ask.
    """
    with _resolving:
        lookup = _lookups.get((name, port))
        if lookup is None:
            lookup = Future()
            _start(partial(_look_up, lookup, name, port))
            _lookups[name, port] = lookup
    try:
        return lookup.result(within_s)
    finally:
        with _resolving:
            if lookup.done() and _lookups.get((name, port)) is lookup:
                del _lookups[name, port]


def _start(work: Callable[[], None]) -> None:
    try:
        threading.Thread(target=work, name="resolve", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


def _look_up(answer: Future[list[str]], name: str, port: int) -> None:
    try:
        answer.set_result([str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)])
    except (OSError, ValueError) as error:
        answer.set_exception(error)


_KINDS: Mapping[type, type] = {Connection: _Named, SSLConnection: _NamedTls}


def redis_client(url: str, timeout_s: float, now: Callable[[], str] | None) -> redis.Redis:
    """A client of the server at this URL; it connects when it is used. Raises Misconfigured: the URL can't be read."""
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
        raise Misconfigured(f"TAGSTREAM_REDIS_URL has an unknown option; known are {', '.join(_OPTIONS)}")
    if now is not None and options.get("password"):
        for replaced in ("username", "password"):
            options.pop(replaced, None)
        options["credential_provider"] = _Login(now)
    options |= _settled(timeout_s)
    if kind is UnixDomainSocketConnection:
        options.pop("socket_keepalive", None)
    try:
        pool = ConnectionPool(connection_class=_KINDS.get(kind, kind), **options)
        pool.make_connection()  # connects to nothing; names what it does not know
        return redis.Redis(connection_pool=pool)
    except (TypeError, ValueError, LookupError, redis.exceptions.RedisError) as error:
        raise Misconfigured(f"TAGSTREAM_REDIS_URL has an option that does not work: {error}") from None


def _settled(timeout_s: float) -> dict[str, Any]:
    """Options that a URL does not decide. RESP2 without notifications needs no handshake."""
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
