"""An HTTP pool whose time limit is a wall clock over the whole answer: waiting, headers and body.

urllib3's read timeout starts anew with every byte that arrives, so a server that sends one byte a second is never
too slow for it. Here the clock is set once an answer, and every read of the socket gets only what is left of it.

No answer is held in memory without a bound either: what is not an answer to the question becomes `S3Refusal` with what
its first bytes tell, and an answer that is read whole for its caller may have `_LARGEST_ANSWER` bytes.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import certifi
import urllib3
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from workers.backends import plain_http
from workers.backends.names import connected
from workers.backends.plain_http import ClockedReader, ObjectAnswer, PlainAnswer
from workers.backends.s3_answers import S3Answer, read_answer

_SHORTEST_S = 0.001
_MOST_SERVERS = 16
"""Whose connections are kept; at AWS each bucket has its own."""
_CHUNK = 64 * 1024
_LARGEST_REFUSAL = 64 * 1024
_LARGEST_ANSWER = 8 * 1024 * 1024
"""A page of a listing, at most: 1,000 keys of 1,024 bytes, escaped, with what else is said of each."""
_MOST_TAGS = 100_000
"""In such an answer, and as many attributes. They take up to a hundred times the memory of their text."""
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*+"|'[^']*+')*+""")


class S3Refusal(Exception):
    """The server answered, and not with what was asked for."""

    def __init__(self, answer: S3Answer) -> None:
        super().__init__(answer.said)
        self.answer = answer


class NotAnAnswer(urllib3.exceptions.ProtocolError):
    """A success that can't be one: too large, or no document that S3 defines."""


class _ClockedAnswer(http.client.HTTPResponse):
    """Takes the connection's read timeout, which urllib3 has just set on the socket, as the clock of this answer."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp.close()
            self.fp = io.BufferedReader(ClockedReader(sock, time.monotonic() + timeout))


class _Connection(HTTPConnection):
    """Finding the server's addresses, and trying one after the other, take the timeout of one connection together."""

    response_class = _ClockedAnswer

    def _new_conn(self) -> socket.socket:
        timeout = self.timeout
        assert isinstance(timeout, int | float)
        try:
            return connected(
                self._dns_host.strip("[]"), self.port, timeout, self._connect_to, urllib3.exceptions.HTTPError
            )
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except (OSError, ValueError) as error:
            raise NewConnectionError(self, str(error)) from error

    def _connect_to(self, address: str, within_s: float) -> socket.socket:
        name, timeout = self._dns_host, self.timeout
        self._dns_host, self.timeout = address, within_s
        try:
            return super()._new_conn()
        finally:
            self._dns_host, self.timeout = name, timeout


class _TlsConnection(HTTPSConnection, _Connection):
    @property
    def is_connected(self) -> bool:
        """Whether it can be asked again: also what came unasked and is decrypted already must not become an answer."""
        return super().is_connected and not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class ClockedPool(urllib3.PoolManager):
    """Connections to a store's servers, kept alive; no retries of its own, no redirect is ever followed. Thread-safe.

    Args:
        connections: how many may be open to each server; a request above that waits for one, on its own clock.
        connect_s: for a TCP connection (and TLS) to be made.
        request_s: for a request made outside `within`.
        ca_certs: a file of certificates to trust; None: the one that SSL_CERT_FILE names, or else certifi's.
    """

    def __init__(self, *, connections: int, connect_s: float, request_s: float, ca_certs: str | None = None) -> None:
        if ca_certs is None:
            ca_certs = os.environ.get("SSL_CERT_FILE") or certifi.where()
        super().__init__(
            num_pools=_MOST_SERVERS, maxsize=connections, block=True, cert_reqs="CERT_REQUIRED", ca_certs=ca_certs
        )
        self.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._connect_s = connect_s
        self._request_s = request_s
        self._clock = threading.local()
        self._of_servers: dict[str, HTTPConnectionPool] = {}

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All requests that this thread makes inside have so long together, to the last byte of their answers.

        Inside another such block they have what is left of that, if it is less.
        """
        outer = getattr(self._clock, "until", None)
        until = time.monotonic() + seconds
        self._clock.until = until if outer is None else min(outer, until)
        try:
            yield
        finally:
            self._clock.until = outer

    def urlopen(  # type: ignore[override]  # urllib3 overloads what is plain here
        self, method: str, url: str, redirect: bool = True, **kwargs: Any
    ) -> BaseHTTPResponse:
        left = self._left_s()
        timeout = urllib3.Timeout(connect=min(self._connect_s, left), read=left)
        whole = kwargs.pop("preload_content", True)
        clocked = {**kwargs, "timeout": timeout, "pool_timeout": left, "retries": False, "preload_content": False}
        answer = super().urlopen(method, url, redirect=False, **clocked)
        self._clock.date = answer.headers.get("Date")
        if not 200 <= answer.status < 300:
            raise S3Refusal(_refusal(answer))
        return _held(answer) if whole else answer

    def open_object(self, server: str, target: str, headers: Mapping[str, str]) -> ObjectAnswer:
        """Ask for an object: over a connection that is open already, if there is one, which is the cheapest way. The
        caller reads the answer, closes it and releases its connection.

        Args:
            server: `http://host:port` or `https://host`.
            target: path and query, quoted.

        Raises:
            S3Refusal, urllib3.exceptions.HTTPError: as `urlopen`.
        """
        until = time.monotonic() + self._left_s()
        answer = plain_http.get(self._of_server(server), target, headers, until)
        if answer is None:
            return self.urlopen("GET", server + target, headers=headers, preload_content=False)
        if not isinstance(answer, PlainAnswer) and not 200 <= answer.status < 300:
            raise S3Refusal(_refusal(answer))
        return answer

    @property
    def date(self) -> str | None:
        """The Date of the last answer that `urlopen` had for this thread."""
        return getattr(self._clock, "date", None)

    def _left_s(self) -> float:
        until = getattr(self._clock, "until", None)
        return self._request_s if until is None else max(_SHORTEST_S, until - time.monotonic())

    def _of_server(self, server: str) -> HTTPConnectionPool:
        """The connections to one server: `connection_from_url`, which takes 0.1 ms to tell that it is the same one."""
        pool = self._of_servers.get(server)
        if pool is None or pool.pool is None:  # not asked yet, or closed in favour of others
            if len(self._of_servers) >= _MOST_SERVERS:
                self._of_servers.clear()
            pool = self._of_servers[server] = self.connection_from_url(server)
        return pool


def _refusal(answer: BaseHTTPResponse) -> S3Answer:
    """The refusal that an answer tells. A body that breaks off or does not end is read as far as it came."""
    body = bytearray()
    try:
        while len(body) < _LARGEST_REFUSAL and (chunk := answer.read1(_CHUNK, decode_content=False)):
            body += chunk
    except (urllib3.exceptions.HTTPError, http.client.HTTPException):
        pass
    finally:
        _let_go(answer)
    return read_answer(answer.status, bytes(body[:_LARGEST_REFUSAL]), answer.headers.get("Date", ""))


def _held(answer: BaseHTTPResponse) -> HTTPResponse:
    """The same answer with its body in memory, which any XML parser may be given."""
    body = io.BytesIO()
    try:
        while chunk := answer.read1(_CHUNK, decode_content=False):
            body.write(chunk)
            if body.tell() > _LARGEST_ANSWER:
                raise NotAnAnswer(f"an answer of more than {_LARGEST_ANSWER} bytes")
    finally:
        _let_go(answer)
    text = body.getvalue()
    if not _harmless(text):
        raise NotAnAnswer("a document that S3 does not define")
    headers = HTTPHeaderDict(answer.headers)
    for name in ("Content-Encoding", "Transfer-Encoding"):
        headers.pop(name, None)
    return HTTPResponse(io.BytesIO(text), headers, answer.status, enforce_content_length=False)


def _harmless(text: bytes) -> bool:
    """Whether XML is safe to parse: no entities, bounded depth and number of elements and attributes, text in UTF-8."""
    if b"<!" in text or text.count(b"<") > _MOST_TAGS:
        return False
    if sum(tag.count(b"=") for tag in _TAG.findall(text)) > _MOST_TAGS:  # a key may be full of them
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _let_go(answer: BaseHTTPResponse) -> None:
    """Give a connection back to the pool if its answer was read to the end; close it otherwise."""
    answer.close()
    answer.release_conn()
