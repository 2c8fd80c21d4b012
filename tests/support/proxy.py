"""A TCP proxy on loopback that can make a connection slow, frozen, cut or refused while a test runs."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from tagstream_testing.local.ports import free_ports
from tests.support.waiting import eventually

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset instead of a goodbye."""


class FaultProxy:
    """Forwards every connection to `upstream`, as long as no fault is on.

    One fault at a time; `heal` ends it. The counters say that it landed, and never go back.
    """

    def __init__(self, upstream: Callable[[], int]) -> None:
        self._upstream = upstream
        self._open = _set()
        self._dead: list[threading.Event] = []
        self._refusing = False
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self.port = free_ports(1)[0]
        self._listener: socket.socket | None = None
        self.accepted = 0
        self.refused = 0
        self.appear()

    def cut(self) -> int:
        """Reset every connection that is open now; new ones pass. Answers how many there were."""
        with self._lock:
            victims = list(self._live)
        for victim in victims:
            _reset(victim)
        return len(victims) // 2

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def freeze(self) -> None:
        """Connections stay open and nothing passes, as behind a dead switch."""
        self._open.clear()

    def forget(self) -> None:
        """End a freeze for new connections alone: old ones stay open and dead, as behind a new router."""
        self._dead.append(self._open)
        self._open = _set()

    def vanish(self) -> None:
        """Close the port: connections are refused by the machine, as with a server that is not running."""
        if self._listener is not None:
            # A thread in accept keeps the listening socket alive past its close; shutdown wakes it.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def appear(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def heal(self) -> None:
        self._refusing = False
        for way in (self._open, *self._dead):
            way.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            self.accepted += 1
            if self._refusing:
                self.refused += 1
                _reset(client)
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream()), timeout=30)
        except OSError:
            self.refused += 1
            _reset(client)
            return
        server.settimeout(None)
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._live |= {client, server}
        asked, answered = self._streams(client, server)
        way = self._open
        back = threading.Thread(target=self._pump, args=(answered, server, client, way), daemon=True)
        back.start()
        self._pump(asked, client, server, way)
        back.join()
        with self._lock:
            self._live -= {client, server}
        client.close()
        server.close()

    def _streams(self, client: socket.socket, server: socket.socket) -> tuple[Iterator[bytes], Iterator[bytes]]:
        """The bytes to forward on the two sides of one connection, piece by piece."""
        return _chunks(client), _chunks(server)

    def _pump(self, pieces: Iterator[bytes], source: socket.socket, sink: socket.socket, way: threading.Event) -> None:
        with contextlib.suppress(OSError):
            for chunk in pieces:
                way.wait()
                sink.sendall(chunk)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.vanish()
        self.heal()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _chunks(side: socket.socket) -> Iterator[bytes]:
    while chunk := side.recv(_CHUNK):
        yield chunk


def _reset(side: socket.socket) -> None:
    """Both ends hear of it at once: a thread that waits in recv would keep the descriptor open past a mere close."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        side.shutdown(socket.SHUT_RDWR)
    side.close()


def wait_for(count: Callable[[], int], at_least: int, timeout_s: float = 30.0) -> None:
    """Until a counter got there: the outside proof that a fault has landed."""
    eventually(lambda: count() >= at_least, timeout_s, lambda: "the fault did not land")
