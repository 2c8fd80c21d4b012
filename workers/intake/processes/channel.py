"""Messages over a socket between us and a child: a small pickled tuple, and after it some bytes as they are.

Our side never blocks, whatever the child does; the child's side always does.
"""

from __future__ import annotations

import io
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
        self._incoming = _Incoming()
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
            if self._incoming.whole():
                taken.append(self._incoming.message())
                self._incoming = _Incoming()
        return taken

    def close(self) -> None:
        self._socket.close()

    def _filled(self) -> bool:
        """Whether all that is wanted has come."""
        incoming = self._incoming
        while incoming.wanted:
            try:
                got = self._socket.recv_into(incoming.wanted)
            except BlockingIOError:
                return False
            except OSError:
                got = 0
            if got == 0:
                self.ended = True
                return False
            incoming.wanted = incoming.wanted[got:]
        return True


class _Incoming:
    """A message on its way in: header, words and body, each into memory of its size, and none copied afterwards.

    `wanted` is what has to be filled next.
    """

    def __init__(self) -> None:
        self._header = bytearray(_HEADER.size)
        self._words = bytearray()
        self._body = io.BytesIO()
        self._body_size = 0
        self.wanted = memoryview(self._header)

    def whole(self) -> bool:
        """What was wanted is there: want what comes next, or answer that nothing does.

        Raises:
            Garbled: the header is none.
        """
        if not self._words:
            words, self._body_size = _lengths(self._header)
            self._words = bytearray(words)
            self.wanted = memoryview(self._words)
        elif self._body_size and not self._body.tell():
            self._body.seek(self._body_size - 1)
            self._body.write(b"\0")  # makes room for all before it
            self.wanted = self._body.getbuffer()
        else:
            self.wanted = memoryview(b"")  # lets go of the body, else it could be had only as a copy
            return True
        return False

    def message(self) -> tuple[Message, bytes]:
        """Once whole. Raises Garbled."""
        try:
            message = pickle.loads(self._words)
        except Exception as error:
            raise Garbled(f"{type(error).__name__}: {error}") from error
        if not isinstance(message, tuple) or not message:
            raise Garbled("not a message")
        return message, self._body.getvalue()


def send(sock: socket.socket, message: Message, body: bytes = b"") -> None:
    """The child's side: returns when all is on its way."""
    for part in _packed(message, body):
        sock.sendall(part)


def receive(sock: socket.socket) -> tuple[Message, bytes]:
    """The child's side: the next message, whole.

    Raises:
        EOFError: the parent has let go of us.
    """
    incoming = _Incoming()
    while True:
        while incoming.wanted:
            got = sock.recv_into(incoming.wanted)
            if got == 0:
                raise EOFError
            incoming.wanted = incoming.wanted[got:]
        if incoming.whole():
            return incoming.message()


def _packed(message: Message, body: bytes) -> list[memoryview]:
    words = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    parts = [memoryview(_HEADER.pack(len(words), len(body)) + words)]
    return [*parts, memoryview(body)] if body else parts


def _lengths(header: bytearray) -> tuple[int, int]:
    words, body = _HEADER.unpack(header)
    if not 0 < words <= words + body <= _LARGEST:
        raise Garbled(f"a message of {words + body} bytes")
    return words, body
