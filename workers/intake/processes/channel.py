"""Messages over a socket between us and a child: a small pickled tuple, and after it some bytes as they are.

Our side never blocks, whatever the child does; the child's side always does.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from typing import Any, TypeAlias

Message: TypeAlias = tuple[Any, ...]
"""Its first entry is its kind, the second the ticket."""

_HEADER = struct.Struct("<IQ")
_LARGEST = 1 << 32


class Garbled(Exception):
    """What came is no message: the other side's memory is not to be trusted."""


class Channel:
    """Our side. For one thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._outbox: deque[memoryview] = deque()
        self._header = bytearray(_HEADER.size)
        self._body = bytearray()
        self._wanted = memoryview(self._header)
        self.ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._outbox)

    def put(self, message: Message, body: bytes = b"") -> None:
        """Send now what can be sent, the rest when `flush` is called."""
        self._outbox.extend(_packed(message, body))
        self.flush()

    def flush(self) -> None:
        try:
            while self._outbox:
                sent = self._socket.send(self._outbox[0])
                rest = self._outbox.popleft()[sent:]
                if rest:
                    self._outbox.appendleft(rest)
        except BlockingIOError:
            pass
        except OSError:  # the child died; what it said before can still be read
            self._outbox.clear()

    def take(self) -> list[tuple[Message, bytes]]:
        """Every message that has come whole. Sets `ended` when none can follow.

        Raises:
            Garbled: the child is not to be listened to any more.
        """
        taken: list[tuple[Message, bytes]] = []
        while self._filled():
            if self._body:
                taken.append(_unpacked(self._header, self._body))
                self._body = bytearray()
                self._wanted = memoryview(self._header)
            else:
                self._body = bytearray(_length(self._header))
                self._wanted = memoryview(self._body)
        return taken

    def close(self) -> None:
        self._socket.close()

    def _filled(self) -> bool:
        """Whether all that is wanted has come."""
        while self._wanted:
            try:
                got = self._socket.recv_into(self._wanted)
            except BlockingIOError:
                return False
            except OSError:
                got = 0
            if got == 0:
                self.ended = True
                return False
            self._wanted = self._wanted[got:]
        return True


def send(sock: socket.socket, message: Message, body: bytes = b"") -> None:
    """The child's side: returns when all is on its way."""
    for part in _packed(message, body):
        sock.sendall(part)


def receive(sock: socket.socket) -> tuple[Message, bytes]:
    """The child's side: the next message, whole.

    Raises:
        EOFError: the parent has let go of us.
    """
    header = _exactly(sock, _HEADER.size)
    return _unpacked(header, _exactly(sock, _length(header)))


def _exactly(sock: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = sock.recv_into(view)
        if got == 0:
            raise EOFError
        view = view[got:]
    return buffer


def _packed(message: Message, body: bytes) -> list[memoryview]:
    words = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    parts = [memoryview(_HEADER.pack(len(words), len(body)) + words)]
    return [*parts, memoryview(body)] if body else parts


def _length(header: bytearray) -> int:
    words, body = _HEADER.unpack(header)
    if not 0 < words + body <= _LARGEST:
        raise Garbled(f"a message of {words + body} bytes")
    return int(words + body)


def _unpacked(header: bytearray, content: bytearray) -> tuple[Message, bytes]:
    words, _ = _HEADER.unpack(header)
    view = memoryview(content)
    try:
        message = pickle.loads(view[:words])
    except Exception as error:
        raise Garbled(f"{type(error).__name__}: {error}") from error
    if not isinstance(message, tuple) or not message:
        raise Garbled("not a message")
    return message, bytes(view[words:])
