"""Reads messages of the formats v0 and v1, before Kafka 0.11.

Later brokers still hand them out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final, Self

from workers.backends.kafka.batches.batch import APPEND_TIME, CODEC, Batch, Head, batches
from workers.backends.kafka.batches.codecs import Malformed, TooLarge, decompress
from workers.backends.kafka.types import ReadRecord
from workers.types import Partition

_FIELDS: Final = struct.Struct(">qiIbb")
_TIMESTAMP: Final = struct.Struct(">q")
_SIZE: Final = struct.Struct(">i")
_CHECKED_FROM: Final = struct.calcsize(">qiI")
_NO_TIMESTAMP: Final = -1


class LegacyBatch(Batch):
    """One message, or a compressed one whose value holds many. Its offset is the last one's."""

    @classmethod
    def of(cls, data: memoryview) -> Self:
        offset, length, crc, magic, attributes = _FIELDS.unpack_from(data)
        first = 0 if attributes & CODEC else offset
        head = Head(first, length, -1, magic, crc, attributes, offset - first, 0, _NO_TIMESTAMP, -1, -1, -1, 1)
        return cls(head, data)

    @property
    def last_offset(self) -> int:
        return self.head.base_offset + self.head.last_offset_delta

    @property
    def control(self) -> bool:
        return False

    @property
    def transactional(self) -> bool:
        return False

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.data[_CHECKED_FROM:])

    def records(self, partition: Partition, limit: int) -> tuple[list[ReadRecord], int]:
        try:
            own = _message(self.data, partition)
            if (codec := self.head.attributes & CODEC) == 0:
                return [own], own.size
            body = decompress(codec, own.value or b"", limit)
            found, held = list(_within(body, partition, limit)), len(body)
        except struct.error:
            raise Malformed("a message that is cut off") from None
        if not found:
            raise Malformed("a compressed message that holds none")
        # In v1 the messages inside count from 0, and the one around them has the offset of the last.
        shift = own.offset - found[-1].offset if self.head.magic == 1 else 0
        total = sum(record.size for record in found)
        moved = [
            replace(each, offset=each.offset + shift, stored=max(1, len(self.data) * each.size // total))
            for each in found
        ]
        if any(one.offset >= other.offset for one, other in pairwise(moved)):
            raise Malformed("messages whose offsets do not ascend")
        return moved, max(held, total)


def _within(body: bytes | bytearray, partition: Partition, limit: int) -> Iterator[ReadRecord]:
    held = 0
    for data in batches(body):
        record = _message(data, partition)
        held += record.size
        if held > limit:
            raise TooLarge
        yield record


def _message(data: memoryview, partition: Partition) -> ReadRecord:
    offset, _, _, magic, attributes = _FIELDS.unpack_from(data)
    at = _FIELDS.size
    timestamp = _NO_TIMESTAMP
    if magic == 1:
        (timestamp,) = _TIMESTAMP.unpack_from(data, at)
        at += _TIMESTAMP.size
    key, at = _bytes(data, at)
    value, at = _bytes(data, at)
    return ReadRecord(*partition, offset, timestamp, key, value, (), append_time=bool(attributes & APPEND_TIME))


def _bytes(data: memoryview, at: int) -> tuple[bytes | None, int]:
    (size,) = _SIZE.unpack_from(data, at)
    at += _SIZE.size
    if size < 0:
        return None, at
    if at + size > len(data):
        raise Malformed(f"a field of {size} bytes where {len(data) - at} are left")
    return bytes(data[at : at + size]), at + size
