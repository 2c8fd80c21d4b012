"""Kafka's record batches (format v2, KIP-98), read within bounds. No client library here.

A broker checks the structure of each batch, but neither the names of headers nor the size after decompression. So
nothing here allocates by a claim of the bytes. A batch is read whole or not at all: an unreadable one becomes one
`ReadRecord` with the reason, for all its offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import crc32c

from workers.backends.kafka.batches.codecs import Malformed, TooLarge, decompress
from workers.types import Headers, Partition, ReadRecord, Unreadable, record_size

MAX_HEADERS: Final = 1_000
"""Entries that a record's headers may have. One of two bytes takes some 200 in memory."""

_LENGTH: Final = struct.Struct(">qi")
FIELDS: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT: Final = 16
"""Position of the version number in every format."""
CHECKED_FROM: Final = struct.calcsize(">qiibI")
CODEC, APPEND_TIME, TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_TIMES: Final = 1 << 63
"""A record's time has 64 bits."""
_MARKER: Final = struct.Struct(">hh")
_ABORT: Final = 0


class Head(NamedTuple):
    """The fields before a batch's records, in their order."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch as the broker stores it."""

    head: Head
    data: memoryview

    @classmethod
    def of(cls, data: memoryview) -> Self:
        """Raises Malformed: the data have no head, or one of a format without batches."""
        if len(data) > _MAGIC_AT and data[_MAGIC_AT] < 2:
            raise Malformed(
                f"the message format v{data[_MAGIC_AT]}, from before Kafka 0.11, can't be read. Set the group's offset"
                " behind it (kafka-consumer-groups --reset-offsets)"
            )
        if len(data) < FIELDS.size:
            raise Malformed(f"a batch of {len(data)} bytes, where its head alone has {FIELDS.size}")
        return cls(Head(*FIELDS.unpack_from(data)), data)

    @property
    def last_offset(self) -> int:
        return self.head.base_offset + max(0, self.head.last_offset_delta)

    @property
    def control(self) -> bool:
        """Whether it is a transaction's marker, which is for clients alone."""
        return bool(self.head.attributes & _CONTROL)

    @property
    def transactional(self) -> bool:
        return bool(self.head.attributes & TRANSACTIONAL)

    @property
    def checksum(self) -> int:
        """The checksum of the bytes; the head has the producer's."""
        return int(crc32c.crc32c(self.data[CHECKED_FROM:]))

    def ends_aborted(self) -> bool:
        """Whether it is the marker of a transaction that was aborted."""
        try:
            key = _Cursor(self.data[FIELDS.size :]).record(self.head, Partition("", 0)).key
        except Malformed:
            return False
        return key is not None and len(key) >= _MARKER.size and _MARKER.unpack_from(key)[1] == _ABORT

    def records(self, partition: Partition, limit: int) -> tuple[list[ReadRecord], int]:
        """The records in offset order, and the bytes that reading them took.

        Args:
            limit: bytes that the decompressed batch may have, and that its records may hold in memory.

        Raises:
            TooLarge: the batch exceeds the limit; it took no more memory.
            Malformed: the records are invalid, although the checksum fits.
        """
        if self.head.magic != 2:
            raise Malformed(f"of the message format v{self.head.magic}; those since Kafka 0.11 are v2")
        if self.head.record_count * record_size(None, None, ()) > limit:
            raise TooLarge  # by its head: reading them would take a third of a second, with the same end
        body = decompress(self.head.attributes & CODEC, bytes(self.data[FIELDS.size :]), limit)
        cursor = _Cursor(body, len(self.data))
        found: list[ReadRecord] = []
        held, after = 0, self.head.base_offset - 1
        for _ in range(self.head.record_count):
            record = cursor.record(self.head, partition)
            if not after < record.offset <= self.last_offset:
                raise Malformed(f"offset {record.offset} after {after}, in a batch that ends at {self.last_offset}")
            after = record.offset
            held += record.size
            if held > limit:
                raise TooLarge
            found.append(_marked(record, found[-1]) if found else record)
        if not cursor.at_end:
            raise Malformed(f"{self.head.record_count} records and something behind them")
        return found, max(held, len(body))

    def unread(self, partition: Partition, first: int, last: int, why: Unreadable, *, keep: bool) -> ReadRecord:
        """One record for all offsets from `first` to `last`.

        Args:
            keep: whether the batch's bytes are its value.
        """
        value = bytes(self.data) if keep else None
        when = self.head.max_timestamp
        appended = bool(self.head.attributes & APPEND_TIME)
        offsets = max(1, last - first + 1)
        return ReadRecord(*partition, first, when, None, value, (), offsets, why, appended, len(self.data))


def batches(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """The whole batches of a broker's answer; the last may be cut off."""
    view, at = memoryview(data), 0
    while at + _LENGTH.size <= len(view):
        _, length = _LENGTH.unpack_from(view, at)
        end = at + _LENGTH.size + length
        if length <= 0 or end > len(view):
            return
        yield view[at:end]
        at = end


def _marked(record: ReadRecord, before: ReadRecord) -> ReadRecord:
    """Mark a record that differs from the last in its key alone. It shares the value of the one before."""
    if record.offset != before.offset + 1 or record.value != before.value or record.headers != before.headers:
        return record
    if record.unreadable != before.unreadable:
        return record
    return replace(record, value=before.value, headers=before.headers, repeats=True)


class _Cursor:
    """Reads the records of an uncompressed body one after the other."""

    def __init__(self, body: bytes | bytearray | memoryview, stored: int = 0) -> None:
        self._body = body
        self._stored = stored
        self._view = memoryview(body)
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._body)

    def record(self, head: Head, partition: Partition) -> ReadRecord:
        """Raises Malformed: no valid record follows."""
        try:
            return self._record(head, partition)
        except IndexError:
            raise Malformed("a record that is cut off") from None

    def _record(self, head: Head, partition: Partition) -> ReadRecord:
        length = self._varint()
        end = self._at + length
        if length < 0 or end > len(self._body):
            raise Malformed(f"a record of {length} bytes where {len(self._body) - self._at} are left")
        stored = max(1, self._stored * length // len(self._body))
        self._at += 1  # its attributes, which are not in use
        timestamp = head.first_timestamp + self._varint()
        if not -_TIMES <= timestamp < _TIMES:  # overflows, as in the broker
            timestamp = (timestamp + _TIMES) % (2 * _TIMES) - _TIMES
        appended = bool(head.attributes & APPEND_TIME)
        if appended:
            timestamp = head.max_timestamp
        offset = head.base_offset + self._varint()
        key, value = self._bytes(end), self._bytes(end)
        count = self._varint()
        if not 0 <= count <= length:
            raise Malformed(f"{count} headers in a record of {length} bytes")
        if count > MAX_HEADERS:
            self._at = end
            why = Unreadable("too-many-headers", f"{count} headers, at most {MAX_HEADERS} are read; they are left out")
            return ReadRecord(*partition, offset, timestamp, key, value, (), 1, why, appended, stored)
        headers = self._headers(count, end)
        if self._at != end:
            raise Malformed(f"a record of {length} bytes that ends {self._at - end:+} bytes from there")
        return ReadRecord(*partition, offset, timestamp, key, value, headers, append_time=appended, stored=stored)

    def _headers(self, count: int, end: int) -> Headers:
        """The headers; bytes of a name that are not UTF-8 are replaced."""
        return tuple([((self._bytes(end) or b"").decode("utf-8", "replace"), self._bytes(end)) for _ in range(count)])

    def _bytes(self, end: int) -> bytes | None:
        length = self._varint()
        if length < 0:
            return None
        start = self._at
        self._at += length
        if self._at > end:
            raise Malformed(f"a field of {length} bytes where {end - start} are left")
        return bytes(self._view[start : self._at])

    def _varint(self) -> int:
        """Zigzag, at most ten bytes."""
        body, at = self._body, self._at
        byte = body[at]
        at += 1
        if byte < 0x80:  # most of them
            self._at = at
            return (byte >> 1) ^ -(byte & 1)
        value = byte & 0x7F
        shift = 7
        while byte & 0x80:
            if shift > 63:
                raise Malformed("a number that does not end")
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        self._at = at
        return (value >> 1) ^ -(value & 1)
