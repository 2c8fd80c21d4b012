"""Binary protocols: record batches from a broker, and the answers of a decoder's process."""

import gzip
import socket
import struct
from collections.abc import Iterator
from random import Random

import crc32c
import lz4.frame
import zstandard

from schemas.dead_letter import REASONS
from schemas.enriched_image import ImageFacts
from tests.fuzz import mutators
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.mutators import Parts
from tests.support.raw_kafka import CONTROL, GZIP, LZ4, SNAPPY, ZSTD, batch, record
from workers.backends.kafka.batches.batch import MAX_HEADERS, Batch, batches
from workers.backends.kafka.batches.codecs import Malformed, TooLarge
from workers.intake.header import Header
from workers.intake.limits import Limits
from workers.intake.processes.wire import (
    PIPE_BYTES,
    Answer,
    Channel,
    Complained,
    Completed,
    Failed,
    Garbled,
    Inspected,
    Ready,
    Refused,
    send,
)
from workers.pipeline.facts import fields_of
from workers.types import Partition, PictureFacts

HERE = Partition("images", 3)
LIMIT = 1 << 20
"""Bytes that a batch may become."""

_LENGTH, _CHECKSUM, _CHECKED_FROM = slice(8, 12), slice(17, 21), 21


def record_batches() -> Iterator[Parts]:
    headers = ((b"h", b"1"), (b"h", None), (b"\xff", b""))
    records = [record(b"value %d" % number, delta=number, headers=headers) for number in range(5)]
    yield (batch(records),)
    yield (batch(records, base_offset=2**40, timestamp=-1) + batch([record(None, key=None)], base_offset=2**40 + 9),)
    yield (batch([record(b"v", timestamp=-(2**40))], attributes=0x08),)
    yield (batch([record(b"v", timestamp=-(2**63))], timestamp=-(2**63)),)
    yield (batch([record(b"\0\0\0\1", key=b"\0\0\0\0")], attributes=CONTROL | 0x10, producer_id=7),)
    zstd = zstandard.ZstdCompressor().compress
    for codec, compress in ((GZIP, gzip.compress), (ZSTD, zstd), (LZ4, lz4.frame.compress), (SNAPPY, _snappy)):
        yield (batch(records, attributes=codec, compress=compress),)
        yield (batch([record(bytes(200_000))], attributes=codec, compress=compress),)
    for magic in (0, 1):
        yield (batch(records, magic=magic),)


def _snappy(data: bytes) -> bytes:
    """One block of literals alone."""
    out = bytearray(_varint(len(data)))
    for at in range(0, len(data), 60):
        piece = data[at : at + 60]
        out += bytes([(len(piece) - 1) << 2]) + piece
    return bytes(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def resealed(random: Random, parts: Parts) -> Parts:
    """Damaged, and most of the time with a right length and checksum, so that what reads it gets further."""
    data = bytearray(mutators.by_bytes(random, parts[0]))
    if random.random() < 0.8 and len(data) > _CHECKED_FROM:
        data[_LENGTH] = struct.pack(">i", len(data) - 12)
        data[_CHECKSUM] = struct.pack(">I", crc32c.crc32c(bytes(data[_CHECKED_FROM:])))
    return (bytes(data),)


def fetched(parts: Parts) -> str:
    """A batch is read whole, in order and within its limit, or not at all."""
    seen = "no whole batch"
    for data in list(batches(parts[0]))[:20]:
        try:
            found = Batch.of(data)
            _ = (found.checksum, found.control, found.transactional, found.last_offset, found.ends_aborted())
            records, taken = found.records(HERE, LIMIT)
        except TooLarge:
            seen = "too large"
            continue
        except Malformed as error:
            sentence(error)
            seen = "malformed"
            continue
        seen = "read"
        offsets = [each.offset for each in records]
        assert offsets == sorted(set(offsets))
        assert sum(each.size for each in records) <= LIMIT
        assert taken >= 0
        for each in records:
            assert len(each.headers) <= MAX_HEADERS
            assert -(2**63) <= each.timestamp_ms < 2**63, "a dead letter must hold it"
            sum(len(name.encode()) for name, _ in each.headers)
    return seen


PICTURE = PictureFacts("2026-05-03T17:04:05Z", 6, "0123456789abcdef", "AAAAAAAA", (52.5, -13.4), "exif-broken")


def said() -> Iterator[Parts]:
    header = Header("jpeg", 40, 30, "", 3600)
    answers: list[Answer] = [
        Ready(()), Inspected(7, header), Completed(7), Refused(7, "broken-image", "cut off"), Failed(0, "no memory"),
        Complained(7, 2, "Using code not yet in table"), Completed(7, PICTURE),
    ]  # fmt: skip
    for answer in answers:
        yield (_sent([answer]),)
    yield (_sent(answers * 20),)


def _sent(answers: list[Answer]) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for answer in answers:
            send(theirs, answer)
        theirs.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: ours.recv(65_536), b""))


def read_answers(parts: Parts) -> str:
    """Answers that limits would let pass, or the end of listening."""
    limits = Limits(facts="place")
    ours, theirs = socket.socketpair()
    channel = Channel(ours, limits)
    kinds: set[str] = set()
    try:
        with theirs:
            theirs.setblocking(False)
            theirs.send(parts[0][:60_000])
        while not channel.ended:
            for answer in channel.take():
                kinds.add(type(answer).__name__)
                _believable(answer, limits)
    except Garbled as error:
        sentence(error)
        kinds.add("Garbled")
    finally:
        channel.close()
    return " ".join(sorted(kinds)) or "nothing"


def _believable(answer: Answer, limits: Limits) -> None:
    match answer:
        case Inspected(_, header):
            assert header.format in limits.formats
            assert 0 < header.width * header.height <= limits.max_pixels
            assert 0 <= header.pixel_bytes * header.width * header.height <= header.decode_bytes
        case Completed(_, facts):
            ImageFacts(format="jpeg", width=1, height=1, bytes=1, **fields_of(facts))
        case Refused(_, reason, detail):
            assert reason in REASONS
            assert detail.isprintable()
        case Failed(_, detail):
            assert detail.isprintable()
            assert len(detail) < 1000
        case Complained(_, lines, words):
            assert 0 < lines <= PIPE_BYTES
            assert words.isprintable()


TARGETS = (
    Target("record-batches", record_batches, fetched, resealed, bounds=Bounds(mib=24, mib_per_mib=48)),
    Target("child-answers", said, read_answers),
)
