"""A broker whose answers lie in what every Kafka answer has: its length, its number, its end and its time.

What an answer says inside is not changed: the owner of the broker owns the offsets, and no client can check them.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.broker import BrokerBehindProxy
from tests.support.kafka_proxy import KafkaProxy, _frames

_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hxxi")

Lie = Callable[[bytes], Iterator[bytes]]
"""What is sent in the place of a frame (its length in front); the connection ends behind it."""


def _sized(body: bytes, size: int) -> bytes:
    return _SIZE.pack(size) + body


def another_number(frame: bytes) -> Iterator[bytes]:
    (number,) = _SIZE.unpack_from(frame, 4)
    yield frame[:4] + _SIZE.pack(number ^ 0x55AA) + frame[8:]


def cut_off(frame: bytes) -> Iterator[bytes]:
    body = frame[4 : 8 + (len(frame) - 8) // 2]
    yield _sized(body, len(body))


def shorter_than_it_says(frame: bytes) -> Iterator[bytes]:
    yield frame[: len(frame) // 2 + 4]


def of_two_gigabytes(frame: bytes) -> Iterator[bytes]:
    yield _sized(frame[4:], 2**31 - 1)
    yield from itertools.repeat(bytes(1 << 20), 64)


def of_a_negative_length(frame: bytes) -> Iterator[bytes]:
    yield _sized(frame[4:], -7)


def empty(frame: bytes) -> Iterator[bytes]:
    yield _sized(b"", 0)


def again_and_again(frame: bytes) -> Iterator[bytes]:
    yield from itertools.repeat(frame, 1000)


def a_byte_at_a_time(frame: bytes) -> Iterator[bytes]:
    for number in range(min(len(frame), 30)):
        time.sleep(0.1)
        yield frame[number : number + 1]


def another_protocol(frame: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"


LIES: tuple[Lie, ...] = (
    another_number, cut_off, shorter_than_it_says, of_two_gigabytes, of_a_negative_length, empty, again_and_again,
    a_byte_at_a_time, another_protocol,
)  # fmt: skip

APIS = {
    0: "Produce", 1: "Fetch", 2: "ListOffsets", 3: "Metadata", 9: "OffsetFetch", 10: "FindCoordinator", 11: "JoinGroup",
    12: "Heartbeat", 14: "SyncGroup", 18: "ApiVersions", 22: "InitProducerId", 24: "AddPartitionsToTxn",
    25: "AddOffsetsToTxn", 26: "EndTxn", 28: "TxnOffsetCommit",
}  # fmt: skip


class LyingKafkaProxy(KafkaProxy):
    """While `lying` is set, one answer in `every` is a lie; each kind of answer has its turn of each lie."""

    def __init__(self, upstream: Callable[[], int], every: int = 12) -> None:
        self.lying = False
        self.told: Counter[str] = Counter()
        self._every = every
        self._answered = itertools.count(1)
        self._turns = {api: itertools.cycle(LIES[api % len(LIES) :] + LIES[: api % len(LIES)]) for api in APIS}
        self._choosing = threading.Lock()
        super().__init__(upstream)

    @property
    def calls_lied_about(self) -> int:
        with self._choosing:
            return len({name.partition(":")[0] for name in self.told})

    def _answers(self, server: socket.socket, asked: dict[int, int]) -> Iterator[bytes]:
        for frame in _frames(server):
            (correlation_id,) = _SIZE.unpack_from(frame, _SIZE.size)
            api = asked.pop(correlation_id)
            lie = self._lie(api)
            if lie is not None:
                yield from lie(frame)
                return
            yield frame

    def _lie(self, api: int) -> Lie | None:
        """Rare answers are lied about whenever they come for the first time."""
        if not self.lying or api not in APIS:
            return None
        with self._choosing:
            first = not any(name.startswith(f"{APIS[api]}:") for name in self.told)
            if not first and next(self._answered) % self._every:
                return None
            lie = next(self._turns[api])
            self.told[f"{APIS[api]}: {lie.__name__.replace('_', ' ')}"] += 1
            return lie


class LyingBroker(BrokerBehindProxy):
    """Workers come through the liar, all others by the straight way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proxy.close()
        self.liar = self.proxy = LyingKafkaProxy(lambda: self.ports[2])
