"""A proxy that reads the headers of Kafka's requests, so that a fault strikes at one step of the protocol."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Literal

from tests.support.proxy import FaultProxy

_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hxxi")
"""Which request, its version (skipped), its correlation id."""

Side = Literal["request", "answer"]


class Api(IntEnum):
    """Requests by their keys in the protocol."""

    PRODUCE = 0
    OFFSET_COMMIT = 8
    JOIN_GROUP = 11
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class Hold:
    """One request, or its answer, that waits on its connection, with whatever comes behind it there."""

    def __init__(self, api: Api, side: Side) -> None:
        self._wanted = (int(api), side)
        self._lock = threading.Lock()
        self._caught = threading.Event()
        self._released = threading.Event()

    @property
    def caught(self) -> bool:
        return self._caught.is_set()

    def wait_caught(self, timeout_s: float = 30.0) -> None:
        """Until a request waits: the outside proof that the fault has landed."""
        assert self._caught.wait(timeout_s), f"{self._wanted} was not seen within {timeout_s} s"

    def release(self) -> None:
        """Let the delayed bytes pass: `FaultProxy.cut` before loses them."""
        self._released.set()

    def consider(self, api: int, side: Side) -> None:
        """Called for every message that is about to be forwarded."""
        with self._lock:
            mine = (api, side) == self._wanted and not self._caught.is_set() and not self._released.is_set()
            if mine:
                self._caught.set()
        if mine:
            self._released.wait()


class KafkaProxy(FaultProxy):
    """Can hold single requests or answers, and end plain connections at a request. `heal` stops all of that."""

    def __init__(self, upstream: Callable[[], int]) -> None:
        self._holds: list[Hold] = []
        self._breaks_at: Api | None = None
        self.broken = 0
        """Connections that ended because of a request."""
        super().__init__(upstream)

    def hold(self, api: Api, side: Side = "request") -> Hold:
        """Let the next of these wait before the broker sees it, or its answer once the broker has obeyed."""
        hold = Hold(api, side)
        self._holds.append(hold)
        return hold

    def break_at(self, api: Api) -> None:
        """End every connection with this request; the broker never sees it."""
        self._breaks_at = api

    def heal(self) -> None:
        self._breaks_at = None
        for hold in self._holds:
            hold.release()
        self._holds = []
        super().heal()

    def _streams(self, client: socket.socket, server: socket.socket) -> tuple[Iterator[bytes], Iterator[bytes]]:
        asked: dict[int, int] = {}
        return self._requests(client, asked), self._answers(server, asked)

    def _requests(self, client: socket.socket, asked: dict[int, int]) -> Iterator[bytes]:
        for frame in _frames(client):
            api, correlation_id = _REQUEST.unpack_from(frame, _SIZE.size)
            if api == self._breaks_at:
                self.broken += 1
                return
            asked[correlation_id] = api
            self._consider(api, "request")
            yield frame

    def _answers(self, server: socket.socket, asked: dict[int, int]) -> Iterator[bytes]:
        for frame in _frames(server):
            (correlation_id,) = _SIZE.unpack_from(frame, _SIZE.size)
            self._consider(asked.pop(correlation_id), "answer")
            yield frame

    def _consider(self, api: int, side: Side) -> None:
        for hold in list(self._holds):
            hold.consider(api, side)


def _frames(side: socket.socket) -> Iterator[bytes]:
    """Whole messages with their length in front, until the connection ends."""
    with contextlib.suppress(EOFError):
        while True:
            head = _exactly(side, _SIZE.size)
            yield head + _exactly(side, _SIZE.unpack(head)[0])


def _exactly(side: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        part = side.recv(size - len(read))
        if not part:
            raise EOFError
        read += part
    return bytes(read)
