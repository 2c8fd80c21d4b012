"""GET requests on connections that are open, and answers as plain as a store's for an object: one status line, headers
that come at once, and a body of an announced length.

urllib3 and http.client take 0.7 ms of a processor to ask for an object and to read what is said of it, because they
know all of HTTP and of MIME. This knows what nearly every answer is like, and hands all others, as they began, to them.
Connecting and TLS are urllib3's.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import urllib3
from urllib3 import HTTPHeaderDict
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ClosedPoolError, ProtocolError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse, HTTPResponse

_CHUNK = 64 * 1024
_LONGEST_HEAD = 16 * 1024
_MOST_HEADERS = 100
_OK = re.compile(r"HTTP/1\.1 200(?: .*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.ASCII)
"""Blanks around the value are cut off afterwards: an expression that did would take hours for a line full of them."""
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)

Connection: TypeAlias = Any
"""urllib3's, of HTTP or HTTPS."""


class ClockedReader(io.RawIOBase):
    """Reads a socket until a moment of the monotonic clock and not beyond.

    Args:
        begun: what was read of it before, and comes first.
    """

    def __init__(self, sock: socket.socket, until: float, begun: bytes = b"") -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until = until
        self._begun = begun

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._begun:
            chunk, self._begun = self._begun[: len(buffer)], self._begun[len(buffer) :]
            buffer[: len(chunk)] = chunk
            return len(chunk)
        self._sock.settimeout(_left_s(self._until))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class PlainAnswer:
    """An object that is on its way, as urllib3's answers are read. For one thread.

    Args:
        headers: by their names in small letters.
        begun: what has come of the body.
        until: the moment of the monotonic clock by which all of it must have come.
    """

    status: Final = 200

    def __init__(
        self, pool: HTTPConnectionPool, connection: Connection, headers: Mapping[str, str], begun: bytes, until: float
    ) -> None:
        self.headers: Final = headers
        self._pool = pool
        self._connection = connection
        self._until = until
        self._left = int(headers["content-length"])
        self._begun = begun[: self._left]
        self._lasts = len(begun) <= self._left and headers.get("connection", "").lower() != "close"

    def read1(self, amount: int, decode_content: bool = False) -> bytes:
        """Some bytes of the body, at most `amount`; none: it has ended.

        Raises:
            ReadTimeoutError, ProtocolError: of urllib3, as its own answers do.
        """
        if not self._left:
            return b""
        if self._begun:
            chunk, self._begun = self._begun[:amount], self._begun[amount:]
        else:
            chunk = self._received(min(amount, self._left, _CHUNK))
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Let go of the connection, unless all was read and more can be asked of it."""
        if self._left or not self._lasts:
            self._connection.close()

    def release_conn(self) -> None:
        """Give the connection back to its pool. After `close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._put_conn(connection)

    def _received(self, amount: int) -> bytes:
        with _told_as_urllib3_does(self._pool):
            self._connection.sock.settimeout(_left_s(self._until))
            chunk: bytes = self._connection.sock.recv(amount)
            if not chunk:
                raise http.client.IncompleteRead(b"", self._left)
            return chunk


ObjectAnswer: TypeAlias = BaseHTTPResponse | PlainAnswer


def get(
    pool: HTTPConnectionPool, target: str, headers: Mapping[str, str], until: float
) -> PlainAnswer | HTTPResponse | None:
    """Ask for what lies under `target`, and read the head of the answer.

    Args:
        target: path and query, quoted.
        until: the moment of the monotonic clock by which the whole answer must have come, its body too.

    Returns:
        None: no connection is open, or the headers are none: nothing was asked.

    Raises:
        EmptyPoolError, ReadTimeoutError, ProtocolError: of urllib3.
    """
    request = _request(target, headers)
    connection = _open_connection(pool, until) if request else None
    if connection is None:
        return None
    try:
        with _told_as_urllib3_does(pool):
            connection.sock.settimeout(_left_s(until))
            connection.sock.sendall(request)
            begun = connection.sock.recv(_CHUNK)
            found = _plain(begun)
            if found is None:
                return _any_answer(pool, connection, begun, until)
        return PlainAnswer(pool, connection, *found, until)
    except BaseException:
        connection.close()
        pool._put_conn(connection)
        raise


def _request(target: str, headers: Mapping[str, str]) -> bytes:
    """The request as it is sent; empty: something in it would make it another one."""
    lines = [f"GET {target} HTTP/1.1", "Accept-Encoding: identity", *(f"{name}: {headers[name]}" for name in headers)]
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    if " " in target or text.count("\r") != breaks or text.count("\n") != breaks:
        return b""
    return f"{text}\r\n\r\n".encode("latin-1")


def _open_connection(pool: HTTPConnectionPool, until: float) -> Connection | None:
    """One that is open, out of its pool."""
    try:
        connection = pool._get_conn(timeout=max(0.0, until - time.monotonic()))
    except ClosedPoolError:
        return None
    if connection.is_closed:
        pool._put_conn(connection)
        return None
    return connection


def _plain(begun: bytes) -> tuple[dict[str, str], bytes] | None:
    """The headers, and what has come of the body; None: this is not as plain as that."""
    end = begun.find(b"\r\n\r\n", 0, _LONGEST_HEAD)
    if end < 0:
        return None
    first, *lines = begun[:end].decode("latin-1").split("\r\n")
    found = [_HEADER.fullmatch(line) for line in lines]
    headers = {each[1].lower(): each[2].strip(" \t") for each in found if each is not None}
    plain = (
        _OK.fullmatch(first)
        and len(headers) == len(lines) <= _MOST_HEADERS
        and "transfer-encoding" not in headers
        and _LENGTH.fullmatch(headers.get("content-length", ""))
    )
    return (headers, begun[end + 4 :]) if plain else None


def _any_answer(pool: HTTPConnectionPool, connection: Connection, begun: bytes, until: float) -> HTTPResponse:
    """The answer that began so, read by http.client as far as its headers end."""
    answer = http.client.HTTPResponse(connection.sock, method="GET")
    answer.fp.close()
    answer.fp = io.BufferedReader(ClockedReader(connection.sock, until, begun))
    try:
        answer.begin()
    except BaseException:
        answer.close()  # the reader holds the socket too
        raise
    if answer.will_close:
        connection.close()  # which leaves the reader what it reads
    return HTTPResponse(
        body=answer,
        headers=HTTPHeaderDict(answer.msg.items()),
        status=answer.status,
        version=answer.version,
        reason=answer.reason,
        preload_content=False,
        decode_content=False,
        original_response=answer,
        pool=pool,
        connection=connection,
        request_method="GET",
    )


@contextmanager
def _told_as_urllib3_does(pool: HTTPConnectionPool) -> Iterator[None]:
    """Context in which what a socket or http.client raises becomes what urllib3 makes of it."""
    try:
        yield
    except TimeoutError as error:
        raise ReadTimeoutError(pool, "", "the answer did not end in time") from error
    except urllib3.exceptions.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise ProtocolError("the connection broke", error) from error


def _left_s(until: float) -> float:
    """Raises TimeoutError: the moment has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the answer did not end in time")
    return left
