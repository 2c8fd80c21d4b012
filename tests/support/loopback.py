"""A server on a loopback port that sends a test's exact bytes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[socket.socket, bytes], None]
"""Answers one connection, given the received bytes. Raising ends that connection."""


def silence(connection: socket.socket, _: bytes) -> None:
    """Accepts all bytes, and answers nothing."""
    while connection.recv(65536):
        pass


class Loopback:
    """Accepts connections and lets `answer` speak on each, once for every chunk received; over TLS, if wanted."""

    def __init__(
        self, answer: Answer, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None
    ) -> None:
        self.answer = answer
        self.received: list[bytes] = []
        self.accepted = 0
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port = 0 if listener else int(self._listener.getsockname()[1])
        if tls is not None:
            self._listener = tls.wrap_socket(self._listener, server_side=True)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionAbortedError):
            while chunk := connection.recv(65536):
                self.received.append(chunk)
                self.answer(connection, chunk)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def loopback(
    answer: Answer, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None
) -> Iterator[Loopback]:
    server = Loopback(answer, tls, listener)
    try:
        yield server
    finally:
        server.close()
