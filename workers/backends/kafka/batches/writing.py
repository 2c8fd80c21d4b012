"""Kafka's record batches (format v2, KIP-98), written at once from messages that are all there. No client library here.

Key and partition go together as in Kafka's own clients: by the murmur2 hash of the key.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import crc32c

from workers.backends.kafka.batches.batch import CHECKED_FROM, FIELDS, TRANSACTIONAL
from workers.types import Message

_MAGIC: Final = 2
_CRC: Final = struct.Struct(">I")
_CRC_AT: Final = CHECKED_FROM - _CRC.size
_LENGTH_FROM: Final = struct.calcsize(">qi")
_ATTRIBUTES_AND_DELTA: Final = b"\0\0"
"""Of a record: no attribute is in use, and all records of a batch have its first timestamp."""
_NULL: Final = b"\x01"
"""The length -1."""
_NO_HEADERS: Final = b"\0"

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF


class WrittenBatch:
    """One batch of records. Its producer's state is added when it is sent, as the sequence is known only then.

    The methods are those that kafka-python's producer calls on the records of a batch.

    Args:
        records: as `record` writes them, at least one, numbered from 0.
        timestamp_ms: of all of them, since the Unix epoch.
    """

    def __init__(self, records: Sequence[bytes], timestamp_ms: int) -> None:
        self.producer_id = self.producer_epoch = self.base_sequence = -1
        self._timestamp_ms = timestamp_ms
        self._count = len(records)
        self._transactional = False
        self._closed = False
        self._data = bytearray().join(chain((bytes(FIELDS.size),), records))

    def append(self, *_: object) -> None:
        """Nothing is added to it: its records are complete."""

    def is_full(self) -> bool:
        return True

    def next_offset(self) -> int:
        return self._count

    def size_in_bytes(self) -> int:
        return len(self._data)

    def set_producer_state(self, producer_id: int, producer_epoch: int, first: int, transactional: bool) -> None:
        """
        Args:
            first: the sequence number of its first record.

        Raises:
            RuntimeError: it may be on its way already, and a second time it must be the same.
        """
        if self._closed:
            raise RuntimeError("a batch that was closed keeps its producer")
        self.producer_id, self.producer_epoch, self.base_sequence = producer_id, producer_epoch, first
        self._transactional = transactional

    def close(self) -> None:
        """Write its head. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        FIELDS.pack_into(
            self._data,
            0,
            0,  # base offset and leader epoch are the broker's to say
            len(self._data) - _LENGTH_FROM,
            0,
            _MAGIC,
            0,
            TRANSACTIONAL if self._transactional else 0,
            self._count - 1,
            self._timestamp_ms,
            self._timestamp_ms,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self._count,
        )
        _CRC.pack_into(self._data, _CRC_AT, crc32c.crc32c(memoryview(self._data)[CHECKED_FROM:]))

    def buffer(self) -> bytearray:
        """All its bytes, once it is closed."""
        assert self._closed
        return self._data


def written(messages: Sequence[Message], batch_bytes: int, timestamp_ms: int) -> Iterator[WrittenBatch]:
    """The messages in as few batches of at most so many bytes as their order allows; one message may exceed that."""
    records: list[bytes] = []
    size = FIELDS.size
    for message in messages:
        encoded = record(len(records), message)
        if records and size + len(encoded) > batch_bytes:
            yield WrittenBatch(records, timestamp_ms)
            records, size = [], FIELDS.size
            encoded = record(0, message)
        records.append(encoded)
        size += len(encoded)
    if records:
        yield WrittenBatch(records, timestamp_ms)


def record(number: int, message: Message) -> bytes:
    """One record of a batch, as its `number`th from 0."""
    parts = [_ATTRIBUTES_AND_DELTA, _varint(number), *_field(message.key), *_field(message.value)]
    if message.headers:
        parts.append(_varint(len(message.headers)))
        for name, value in message.headers:
            parts += (*_field(name.encode()), *_field(value))
    else:
        parts.append(_NO_HEADERS)
    body = b"".join(parts)
    return _varint(len(body)) + body


def partition_for(key: bytes | None, partitions: Sequence[int], available: Sequence[int]) -> int:
    """Where a message goes.

    Args:
        partitions: all of the topic, ascending.
        available: those that have a leader; a message without a key goes to any of them.
    """
    if key is None:
        return random.choice(available or partitions)
    return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits, with the seed of Kafka's clients. https://github.com/aappleby/smhasher"""
    length = len(data)
    words = length // 4
    state = _SEED ^ length
    for word in struct.unpack_from(f"<{words}I", data):
        mixed = word * _M & _WORD
        state = (state * _M & _WORD) ^ ((mixed ^ mixed >> 24) * _M & _WORD)
    if rest := data[words * 4 :]:
        state = (state ^ int.from_bytes(rest, "little")) * _M & _WORD
    state = (state ^ state >> 13) * _M & _WORD
    return state ^ state >> 15


def _field(content: bytes | None) -> tuple[bytes, ...]:
    return (_NULL,) if content is None else (_varint(len(content)), content)


def _varint(number: int) -> bytes:
    """Zigzag, of a number that is not negative."""
    left = number << 1
    if left < 0x80:
        return _SHORT[left]
    if left < 0x4000:
        return bytes((left & 0x7F | 0x80, left >> 7))
    out = bytearray()
    while left >= 0x80:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


_SHORT: Final = [bytes((number,)) for number in range(0x80)]
