"""Redis connections that a hostile or broken server can neither fill nor hold: every call is bounded in bytes, in
depth and by the wall clock.

redis-py reads whatever a reply announces (a value of 300 MB is 300 MB, several times), follows nested arrays into a
RecursionError, and starts its timeout anew with every byte that arrives, on reading as on connecting to each of a
name's addresses. Here a reply is one value or one flat list, a length is checked before anything is allocated for it,
and every wait gets only what is left of its call's time. Connecting, TLS and AUTH are still redis-py's.

Its pool and its pipeline are not used: around one small request on a quiet worker they take longer than the server and
the way there (measured: 0.2 of 0.5 ms), and packing a batch takes three times as long as here. Nor are timeouts of
sockets: to set one and to look whether its time is over are system calls, at each of which the interpreter's lock
changes hands. A socket never blocks here, and what has to wait waits once.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import redis
from redis._parsers import BaseParser
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import InvalidResponse

from workers.backends.names import connected

Command: TypeAlias = tuple[str | bytes | int, ...]

MAX_VALUE_BYTES = 1024 * 1024
"""The longest value. Ours have a few kB; the scores of 100,000 labels would have 800 kB."""
MAX_CALL_BYTES = 32 * 1024 * 1024
"""The most bytes of all replies to one call together."""
MAX_ITEMS = 1024
"""The longest list."""
_MAX_LINE_BYTES = 1024
"""The longest line that is no value: lengths, numbers, errors."""
_READ_BYTES = 256 * 1024
_LATE_READS = 64
"""Reads without waiting after a call's time: enough for a whole answer that has arrived, and no trickle's length."""
_SEND_BYTES = 16 * 1024
"""What a piece has at least that is sent at once: a record of TLS holds no more."""
_SHORTEST_S = 0.001
_NUMBER = re.compile(rb"-?[0-9]{1,19}")


class ReplyTooLarge(InvalidResponse):
    """A reply is larger than anything that we ever stored."""


class _Call(threading.local):
    """The time and bytes that the current call of this thread has left; outside of `_bounded` none."""

    until: float = 0.0
    room: int = 0
    late_reads: int = 0


_call = _Call()


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Context that bounds what this thread does with `Connections`: so many seconds together, connecting and sending
    included, and `MAX_CALL_BYTES` read."""
    _call.until, _call.room, _call.late_reads = time.monotonic() + seconds, MAX_CALL_BYTES, _LATE_READS
    try:
        yield
    finally:
        _call.until, _call.room = 0.0, 0


def _left_s() -> float:
    """What is left of the call's time.

    Raises:
        TimeoutError: nothing.
    """
    left = _call.until - time.monotonic()
    if left <= 0:
        raise _too_late()
    return left


def _left_to_read_s() -> float:
    """As `_left_s`, but what has arrived is still taken when the time is over: it may be we that were late, because
    the interpreter's lock or the processor was taken. Zero: without waiting."""
    left = _call.until - time.monotonic()
    if left > 0:
        return left
    _call.late_reads -= 1
    if _call.late_reads < 0:
        raise _too_late()
    return 0.0


def _too_late() -> redis.exceptions.TimeoutError:
    return redis.exceptions.TimeoutError("no whole answer in time")


class BoundedParser(BaseParser):
    """Reads RESP2 replies: bytes, int, None, an exception for an error, or a list of these."""

    def __init__(self, socket_read_size: int) -> None:
        self._sock: socket.socket | None = None
        self._unread = bytearray()

    def on_connect(self, connection: Any) -> None:
        self._sock = connection._sock
        self._sock.setblocking(False)
        self._unread = bytearray()

    def on_disconnect(self) -> None:
        self._sock = None
        self._unread = bytearray()

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something came that was not asked for: then the connection is of no use any more.

        Raises:
            ConnectionError: the server has closed it.
        """
        if self._sock is None:
            return False
        if self._unread:
            return True
        try:
            return self._took(self._sock.recv(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False

    def read_response(self, disable_decoding: bool = False, timeout: object = None) -> Any:
        """The next reply.

        Raises:
            TimeoutError: the call's time is over.
            ReplyTooLarge: the reply is.
            InvalidResponse: what came is not RESP2.
            ConnectionError: the server closed the connection, or says that it will not serve us.
        """
        kind, rest = self._line()
        if kind != b"*":
            return self._single(kind, rest)
        count = _length(rest)
        if count is None:
            return None
        if count > MAX_ITEMS:
            raise ReplyTooLarge(f"a list of {count} items")
        return [self._single(*self._line()) for _ in range(count)]

    def _single(self, kind: bytes, rest: bytes) -> Any:
        if kind == b"$":
            size = _length(rest)
            return None if size is None else self._value(size)
        if kind == b"+":
            return rest
        if kind == b":" and _NUMBER.fullmatch(rest):
            return int(rest)
        if kind == b"-":
            return self._error(rest)
        raise InvalidResponse("a reply that is not RESP2, or lists in a list")

    def _error(self, rest: bytes) -> Exception:
        error: Exception = self.parse_error(  # type: ignore[no-untyped-call]
            "".join(c if c.isprintable() else "?" for c in rest.decode(errors="replace"))
        )
        if isinstance(error, redis.exceptions.ConnectionError):
            raise error
        return error

    def _line(self) -> tuple[bytes, bytes]:
        while (end := self._unread.find(b"\r\n", 0, _MAX_LINE_BYTES)) < 0:
            if len(self._unread) >= _MAX_LINE_BYTES:
                raise InvalidResponse("a line without an end")
            self._receive()
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line[:1], line[1:]

    def _value(self, size: int) -> bytes:
        if size > MAX_VALUE_BYTES:
            raise ReplyTooLarge(f"a value of {size} bytes")
        while len(self._unread) < size + 2:
            self._receive()
        value, end = bytes(self._unread[:size]), self._unread[size : size + 2]
        del self._unread[: size + 2]
        if end != b"\r\n":
            raise InvalidResponse("a value that is longer than it says")
        return value

    def _receive(self) -> None:
        """Read what has come, or wait for it; of a record of TLS that has not come whole, nothing."""
        assert self._sock is not None
        left_s = _left_to_read_s()
        if not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            _wait(self._sock, select.POLLIN, left_s)
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            if not left_s:
                raise _too_late() from None
            return
        self._took(chunk)
        _call.room -= len(chunk)
        if _call.room < 0:
            raise ReplyTooLarge(f"replies of more than {MAX_CALL_BYTES} bytes")
        self._unread += chunk

    def _took(self, chunk: bytes) -> bool:
        if not chunk:
            raise redis.exceptions.ConnectionError("the server closed the connection")
        return True


def _wait(sock: socket.socket, event: int, seconds: float) -> None:
    """Wait until the socket can be read or written, at most so long."""
    poll = select.poll()
    poll.register(sock, event)
    poll.poll(seconds * 1000)


def _length(text: bytes) -> int | None:
    """A length as RESP2 writes it; -1 is "there is none"."""
    if text == b"-1":
        return None
    if not text.isdigit() or not _NUMBER.fullmatch(text):
        raise InvalidResponse("a length that is no number")
    return int(text)


class _InTime(AbstractConnection):
    """Mixed into redis-py's connections: every timeout is what is left of the call."""

    share_s: float | None = None
    """Of the call's time what connecting to one of several addresses may take."""

    @property
    def socket_timeout(self) -> float | None:
        """For the next step of the call; never zero, which would mean not to block."""
        return max(_SHORTEST_S, _call.until - time.monotonic()) if _call.until else self._socket_timeout

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        self._socket_timeout = value

    @property
    def socket_connect_timeout(self) -> float | None:
        return self.share_s or self.socket_timeout

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        self._socket_connect_timeout = value

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """As `Connections.exchange`; what fails closes the connection, and the next call connects again."""
        if not self._is_quiet():
            self.disconnect()  # type: ignore[no-untyped-call]
        try:
            self.send_packed_command(_packed(commands), check_health=False)
            return [self._parser.read_response() for _ in commands]
        except BaseException:
            # redis-py leaves a connection open whose login failed with an error that is not its own
            self.disconnect()  # type: ignore[no-untyped-call]
            raise

    def _is_quiet(self) -> bool:
        """Whether it is connected, and nothing came that was not asked for, which would be taken for an answer."""
        try:
            return self._get_socket() is not None and not self._parser.can_read()
        except (redis.exceptions.ConnectionError, OSError):
            return False

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Connect, if need be, and send these pieces within the call's time.

        Raises:
            TimeoutError: the time is over.
            OSError: they can't be sent.
        """
        if self._get_socket() is None:
            self.connect_check_health(check_health=False)
        for piece in command:
            self._send(piece)

    def _send(self, piece: bytes) -> None:
        sock, rest = self._get_socket(), memoryview(piece)
        assert sock is not None
        while rest:
            left_s = _left_s()
            try:
                rest = rest[sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                _wait(sock, select.POLLOUT, left_s)


def _packed(commands: Iterable[Command]) -> Iterator[bytes]:
    """The commands as they are sent, in pieces of little more than `_SEND_BYTES` or one argument."""
    parts: list[bytes] = []
    size = 0
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            parts += (b"$%d\r\n" % len(data), data, b"\r\n")
            size += len(data)
            if size >= _SEND_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
    yield b"".join(parts)


class _Named(Connection):
    """Below redis-py's connections: they have to do with addresses alone, which are found within the call's time."""

    share_s: float | None

    def _connect(self) -> Any:
        return connected(self.host, self.port, _left_s(), self._connect_to, OSError)

    def _connect_to(self, address: str, within_s: float) -> Any:
        name = self.host
        self.host, self.share_s = address, within_s
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.host, self.share_s = name, None


class _Tcp(_InTime, _Named):
    pass


class _Tls(_InTime, SSLConnection, _Named):
    pass


class _Unix(_InTime, UnixDomainSocketConnection):
    pass


_BOUNDED: dict[type, Callable[..., _InTime]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


class Connections:
    """Bounded connections to one server: as many as threads use at once, each made when it is needed. Thread-safe.

    Args:
        kind: redis-py's class of connections, and the options that it takes.

    Raises:
        TypeError, ValueError, LookupError, redis.exceptions.RedisError: an option does not work.
    """

    def __init__(self, kind: type, options: Mapping[str, Any]) -> None:
        self._make: Callable[[], _InTime] = partial(_BOUNDED[kind], **{**options, "parser_class": BoundedParser})
        self._free = [self._make()]  # connects to nothing; names what it does not know
        self._closed = False

    def exchange(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        """Send these commands together.

        Args:
            within_s: what all of it may take, connecting included.

        Returns:
            An answer for each: what `BoundedParser` reads, or the error with which the server refuses the command.

        Raises:
            redis.exceptions.RedisError, OSError: there is none.
        """
        connection = self._idle() or self._make()
        try:
            with _bounded(within_s):
                return connection.exchange(commands)
        finally:
            self._free.append(connection)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close them; one that is in use, after that."""
        self._closed = True
        while connection := self._idle():
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _idle(self) -> _InTime | None:
        try:
            return self._free.pop()
        except IndexError:
            return None
