"""Record batches written byte by byte, and sent by hand or put into a broker's log file: impossible for a client."""

import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import crc32c

_HEAD = struct.Struct(">qiibIhiqqqhii")
_PRODUCE = 0
_VERSION = 7
"""Of the Produce request; the first flexible one is 9."""
_NO_LEADER_YET = {3, 5, 6}
_NOW_MS = int(time.time() * 1000)
"""A broker deletes week-old segments within half a minute of its start."""
GZIP, SNAPPY, LZ4, ZSTD, CONTROL = 1, 2, 3, 4, 0x20


def varint(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def field(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


def record(
    value: bytes | None,
    *,
    delta: int = 0,
    key: bytes | None = b"k",
    headers: Sequence[tuple[bytes, bytes | None]] = (),
    raw_headers: bytes | None = None,
    timestamp: int = 0,
) -> bytes:
    """One record of a batch. `raw_headers`: their number and bytes, unchanged."""
    listed = b"".join(field(name) + field(content) for name, content in headers)
    body = b"\x00" + varint(timestamp) + varint(delta) + field(key) + field(value)
    body += varint(len(headers)) + listed if raw_headers is None else raw_headers
    return varint(len(body)) + body


def batch(
    records: Sequence[bytes],
    *,
    base_offset: int = 0,
    last_delta: int | None = None,
    count: int | None = None,
    attributes: int = 0,
    compress: Callable[[bytes], bytes] = bytes,
    timestamp: int = _NOW_MS,
    magic: int = 2,
    producer_id: int = -1,
    spoil: int = 0,
) -> bytes:
    """One batch of the format v2. `spoil` is added to its checksum."""
    count = len(records) if count is None else count
    last_delta = len(records) - 1 if last_delta is None else last_delta
    body = compress(b"".join(records))
    after = struct.pack(">hiqqqhii", attributes, last_delta, timestamp, timestamp, producer_id, -1, -1, count)
    checksum = (crc32c.crc32c(after + body) + spoil) & 0xFFFFFFFF
    length = _HEAD.size - 12 + len(body)
    return struct.pack(">qiibI", base_offset, length, 0, magic, checksum) + after + body


def produce(servers: str, topic: str, partition: int, records: bytes) -> tuple[int, int]:
    """Send a batch unchanged, once the topic has a leader; returns the error code (0: success) and the offset."""
    deadline = time.monotonic() + 60
    while True:
        error, offset = _produce(servers, topic, partition, records)
        if error not in _NO_LEADER_YET or time.monotonic() > deadline:
            return error, offset
        time.sleep(0.05)


def _produce(servers: str, topic: str, partition: int, records: bytes) -> tuple[int, int]:
    host, port = servers.rsplit(":", 1)
    name = struct.pack(">h", len(topic)) + topic.encode()
    body = struct.pack(">hhi", -1, -1, 30_000)
    body += struct.pack(">i", 1) + name + struct.pack(">iii", 1, partition, len(records)) + records
    header = struct.pack(">hhih", _PRODUCE, _VERSION, 1, 3) + b"raw"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        (size,) = struct.unpack(">i", _read(connection, 4))
        answer = _read(connection, size)
    at = 4 + 4 + len(name) + 4 + 4
    error, offset = struct.unpack_from(">hq", answer, at)
    return int(error), int(offset)


def overwrite(log: Path, topic: str, partition: int, old: bytes, new: bytes) -> None:
    """Replace these bytes, which occur once, by others of the same length in the broker's log file."""
    assert len(old) == len(new)
    segment = log / f"{topic}-{partition}" / "00000000000000000000.log"
    content = segment.read_bytes()
    assert content.count(old) == 1
    with segment.open("r+b") as file:
        file.seek(content.index(old))
        file.write(new)


def _read(connection: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        part = connection.recv(size - len(read))
        assert part, "the broker closed the connection"
        read += part
    return bytes(read)
