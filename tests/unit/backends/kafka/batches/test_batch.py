"""Odd batches: each is read, or is one record that says why it is not."""

import gzip
import random
import struct
import tracemalloc
import zlib
from contextlib import suppress

import pytest
import zstandard

from schemas.dead_letter import Failure
from tests.support.raw_kafka import CONTROL, GZIP, ZSTD, batch, field, record, varint
from workers.backends.kafka.batches.batch import MAX_HEADERS, Batch, batches
from workers.backends.kafka.batches.codecs import Malformed, TooLarge
from workers.backends.kafka.types import record_of
from workers.pipeline.dead_letters import dead_letter
from workers.types import Assignment, Headers, Partition, ReadRecord, Unreadable

HERE = Partition("images", 3)
LIMIT = 1 << 20


def read(data: bytes, limit: int = LIMIT) -> list[ReadRecord]:
    return Batch.of(memoryview(data)).records(HERE, limit)[0]


def test_a_record_reads_back_unchanged() -> None:
    headers = ((b"h", b"1"), (b"h", None), ("ü".encode(), b""))
    one, other = read(
        batch(
            [record(b"value", headers=headers, timestamp=5), record(None, key=None, delta=1, timestamp=-7)],
            base_offset=40,
            timestamp=1_700_000_000_000,
        )
    )
    assert (one.topic, one.partition, one.offset, one.timestamp_ms) == ("images", 3, 40, 1_700_000_000_005)
    assert (one.key, one.value, one.headers) == (b"k", b"value", (("h", b"1"), ("h", None), ("ü", b"")))
    assert (other.offset, other.timestamp_ms, other.key, other.value) == (41, 1_699_999_999_993, None, None)


def test_a_headers_name_may_be_any_bytes() -> None:
    """Guard: kafka-python calls such a record corrupt, and never comes past it."""
    (found,) = read(batch([record(b"v", headers=[(b"\xff\xfe", b"1"), (b"", b"2"), (b"a\x00\xc3", b"3")])]))
    assert found.headers == (("\ufffd\ufffd", b"1"), ("", b"2"), ("a\x00\ufffd", b"3"))


@pytest.mark.parametrize("first", [-1, -(2**63), 2**63 - 1])
def test_a_time_may_be_any_number(first: int) -> None:
    (found,) = read(batch([record(b"v", timestamp=0)], timestamp=first))
    assert found.timestamp_ms == first


@pytest.mark.parametrize(
    ("first", "after", "time"),
    [
        (2**63 - 1, 1, -(2**63)),
        (-(2**63), -1, 2**63 - 1),
        (-(2**63), 1_700_000_000_000 - 2**63, 1_700_000_000_000),
        (2**63 - 1, 2**63 - 1, -2),
    ],
)
def test_a_time_that_is_the_sum_of_two_has_64_bits(first: int, after: int, time: int) -> None:
    """Guard: no dead letter could hold it, which would end each worker that comes to such a record. To the broker it is
    any time that the sum comes round to, today's if its producer likes."""
    (found,) = read(batch([record(b"v", timestamp=after)], timestamp=first))
    assert found.timestamp_ms == time
    failure = Failure(index=0, stage="parse", reason="undecodable", detail="it is no JSON")
    assert dead_letter(
        record_of(found, Assignment(HERE, "m")), [failure], topic="dead", limit=1 << 20, worker="0", models={}
    ).headers


def test_the_brokers_time_counts_where_the_topic_says_so() -> None:
    (found,) = read(batch([record(b"v", timestamp=99)], timestamp=7, attributes=0x08))
    assert found.timestamp_ms == 7


def test_each_record_has_its_part_of_the_batch_as_stored() -> None:
    values = [b"x" * 30_000, b"y" * 10_000, None, *[b"z"] * 10]
    data = batch(
        [record(value, delta=at) for at, value in enumerate(values)],
        attributes=ZSTD,
        compress=zstandard.ZstdCompressor().compress,
    )
    parts = [found.stored for found in read(data)]
    assert sum(parts) <= len(data) + len(values) < 300
    assert parts[0] > 2 * parts[1] > 10 * parts[2] >= 10


def test_a_record_that_differs_from_the_one_before_it_in_its_key_alone_is_marked() -> None:
    headers = ((b"h", b"1"), (b"n", None))
    records = [
        record(b"v", key=b"a"), record(b"v", key=None, delta=1), record(b"w", delta=2), record(b"w", delta=4),
        record(b"w", headers=headers, delta=5), record(b"w", headers=headers, delta=6), record(None, delta=7),
        record(None, delta=8), record(b"", delta=9),
    ]  # fmt: skip
    assert [found.offset for found in read(batch(records, last_delta=9)) if found.repeats] == [1, 6, 8]


def test_records_that_compaction_took_out_are_gaps() -> None:
    data = batch([record(b"a", delta=2), record(b"b", delta=5)], base_offset=10, last_delta=9)
    assert [found.offset for found in read(data)] == [12, 15]
    assert Batch.of(memoryview(data)).last_offset == 19
    assert read(batch([], count=0, last_delta=9)) == []


def test_a_compressed_batch_is_read_like_another() -> None:
    records = [record(b"%d" % number, delta=number) for number in range(5)]
    for codec, compress in ((GZIP, gzip.compress), (ZSTD, zstandard.ZstdCompressor().compress)):
        assert read(batch(records, attributes=codec, compress=compress)) == read(batch(records))


def test_too_many_headers_are_left_out_and_the_record_says_so() -> None:
    """Guard: 914 MB from ten million headers of two bytes each, which a broker takes as some kB of zstd."""
    most, more = MAX_HEADERS, 10_000_000
    records = [
        record(b"most", raw_headers=varint(most) + b"\0\0" * most),
        record(b"more", raw_headers=varint(more) + b"\0\0" * more, delta=1),
        record(b"after", delta=2),
    ]
    data = batch(records, attributes=ZSTD, compress=zstandard.ZstdCompressor().compress)
    tracemalloc.start()
    one, other, third = read(data, 32 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(one.headers) == MAX_HEADERS
    assert one.unreadable is None
    assert (other.key, other.value, other.headers, other.offsets) == (b"k", b"more", (), 1)
    assert other.unreadable is not None
    assert other.unreadable.reason == "too-many-headers"
    assert (third.value, third.unreadable) == (b"after", None)
    assert peak < 64 << 20


def test_the_memory_of_its_records_limits_a_batch() -> None:
    """Guard: 4 million empty records come as 30 MB, and take 2 GB as objects."""
    records = [record(None, key=None, delta=number) for number in range(3_000)]
    read(batch(records), 2 << 20)
    with pytest.raises(TooLarge):
        read(batch(records), 1 << 20)


def test_a_batch_of_too_many_records_is_refused_by_its_head() -> None:
    """Guard: to read 70,000 that come as a kilobyte takes 0.4 s, and nothing comes of it."""
    with pytest.raises(TooLarge):
        read(batch([b"what no one looks at"], count=1_000, attributes=GZIP), 1_000 * 480 - 1)


def test_its_decompressed_size_limits_a_batch() -> None:
    data = batch([record(bytes(2 * LIMIT))], attributes=GZIP, compress=gzip.compress)
    with pytest.raises(TooLarge):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(batch([record(b"v", raw_headers=varint(-1))]), id="a negative number of headers"),
        pytest.param(batch([record(b"v", raw_headers=varint(2**31))]), id="headers that are not there"),
        pytest.param(batch([record(b"v", raw_headers=varint(1) + varint(-5))]), id="a name without a length"),
        pytest.param(batch([varint(50) + b"\0" * 10]), id="a record that is cut off"),
        pytest.param(batch([varint(-3) + b"\0" * 10]), id="a negative record"),
        pytest.param(batch([b"\xff" * 30]), id="a number without an end"),
        pytest.param(batch([record(b"v") + b"x"]), id="something behind the records"),
        pytest.param(batch([record(b"v")], count=100), id="more records than there are"),
        pytest.param(batch([record(b"v")], count=0), id="a count of 0 before a record"),
        pytest.param(batch([record(b"a"), record(b"b")]), id="an offset twice"),
        pytest.param(batch([record(b"a", delta=-1)]), id="an offset from before the batch"),
        pytest.param(batch([record(b"a", delta=4)]), id="an offset behind the batch"),
        pytest.param(batch([varint(9) + b"\0\0\0" + field(b"x" * 2) + varint(300) + b"\0\0"]), id="a long value"),
        pytest.param(batch([record(b"v")], magic=3), id="a format to come"),
        pytest.param(batch([record(b"v")], attributes=5), id="a codec to come"),
        pytest.param(batch([record(b"v")], attributes=GZIP), id="not what it is said to be"),
    ],
)
def test_a_batch_that_can_not_be_read_is_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


@pytest.mark.slow
def test_a_batch_with_any_byte_changed_raises_nothing_unforeseen() -> None:
    dice = random.Random(11)
    whole = batch([record(b"value", headers=[(b"name", b"x")], delta=n) for n in range(4)])
    for _ in range(20_000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with suppress(Malformed, TooLarge):
            read(bytes(data))


def test_a_batch_cut_off_at_the_end_is_left_out() -> None:
    whole = batch([record(b"v")])
    assert [bytes(part) for part in batches(whole + whole + whole[:-1])] == [whole, whole]
    assert list(batches(whole[:5])) == []
    for length in (-1, 0, -(2**31), 2**31 - 1):
        assert list(batches(bytes(8) + struct.pack(">i", length) + whole)) == []


def test_a_marker_says_how_its_transaction_ended() -> None:
    for kind, aborted in ((0, True), (1, False)):
        marker = record(bytes(6), key=struct.pack(">hh", 0, kind))
        found = Batch.of(memoryview(batch([marker], attributes=CONTROL)))
        assert (found.control, found.ends_aborted()) == (True, aborted)
    assert not Batch.of(memoryview(batch([b"\xff" * 3], attributes=CONTROL))).ends_aborted()


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        (),
        tuple((f"name-{n}", b"value") for n in range(20)),
        tuple((f"名{n}", None) for n in range(200)),
        tuple(("\ufffd" * 50, b"") for n in range(200)),
        tuple((f"{n}", b"") for n in range(1_000)),
    ],
)
def test_a_records_size_includes_key_and_headers(headers: Headers) -> None:
    """Guard: it once was 202 bytes for a record of 914 MB."""
    names = [(name.encode(), content) for name, content in headers]
    data = batch([record(b"%0100d" % n, headers=names, delta=n) for n in range(20)])
    tracemalloc.start()
    found = read(data, 1 << 30)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.95 * held < sum(one.size for one in found) < 2 * held


# Before Kafka 0.11


def message(value: bytes, *, offset: int, magic: int) -> bytes:
    time = struct.pack(">q", 77) if magic else b""
    body = struct.pack(">bb", magic, 0) + time + struct.pack(">ii", -1, len(value)) + value
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("size", [1, 100])
def test_a_message_of_an_old_format_is_not_read_as_a_batch(magic: int, size: int) -> None:
    """Guard: in place of its last offset it has other bytes, and the position would jump."""
    with pytest.raises(Malformed, match=f"format v{magic}, from before Kafka 0.11"):
        Batch.of(memoryview(message(bytes(size), offset=7, magic=magic)))


@pytest.mark.parametrize(("first", "last", "offsets"), [(5, 9, 5), (5, 5, 1), (9, 5, 1)])
@pytest.mark.parametrize("keep", [True, False])
def test_a_record_for_a_whole_batch_counts_its_offsets_and_keeps_its_bytes_if_it_should(
    first: int, last: int, offsets: int, keep: bool
) -> None:
    data = batch([record(b"v")])
    why = Unreadable("batch-unreadable", "odd")
    found = Batch.of(memoryview(data)).unread(HERE, first, last, why, keep=keep)
    assert (found.offset, found.offsets, found.unreadable) == (first, offsets, why)
    assert found.value == (data if keep else None)
