"""An HTTP pool whose time limit is a wall clock over the whole answer: waiting, headers and body.

urllib3's read timeout starts anew with every byte that arrives, so a server that sends one byte a second is never
too slow for it. Here the clock is set once an answer, and every read of the socket gets only what is left of it.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse

_SHORTEST_S = 0.001


class _ClockedReader(io.RawIOBase):
    """Reads a socket until a moment of the monotonic clock and not beyond."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _ClockedAnswer(http.client.HTTPResponse):
    """Takes the connection's read timeout, which urllib3 has just set on the socket, as the clock of this answer."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_ClockedReader(sock, time.monotonic() + timeout))


class _Connection(HTTPConnection):
    response_class = _ClockedAnswer


class _TlsConnection(HTTPSConnection):
    response_class = _ClockedAnswer


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class ClockedPool(urllib3.PoolManager):
    """Connections to one server, kept alive; no retries and no redirects of its own. Thread-safe.

    Args:
        connections: how many may be open; a request above that waits for one, on its own clock.
        connect_s: for a TCP connection (and TLS) to be made.
        request_s: for a request made outside `within`.
        ca_certs: a file of certificates to trust.
    """

    def __init__(self, *, connections: int, connect_s: float, request_s: float, ca_certs: str) -> None:
        super().__init__(num_pools=4, maxsize=connections, block=True, cert_reqs="CERT_REQUIRED", ca_certs=ca_certs)
        self.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._connect_s = connect_s
        self._request_s = request_s
        self._clock = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All requests that this thread makes inside have so long together, to the last byte of their answers."""
        self._clock.until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._clock.until = None

    def urlopen(  # type: ignore[override]  # urllib3 overloads what is plain here
        self, method: str, url: str, redirect: bool = True, **kwargs: Any
    ) -> BaseHTTPResponse:
        until = getattr(self._clock, "until", None)
        left = self._request_s if until is None else max(_SHORTEST_S, until - time.monotonic())
        timeout = urllib3.Timeout(connect=min(self._connect_s, left), read=left)
        clocked = {**kwargs, "timeout": timeout, "pool_timeout": left, "retries": False}
        return super().urlopen(method, url, redirect=False, **clocked)
