"""Record batches that we write are those that Kafka's own clients write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from workers.backends.kafka.batches import writing as batch_writing
from workers.backends.kafka.batches.batch import Batch
from workers.backends.kafka.batches.writing import WrittenBatch, partition_for, written
from workers.types import Message, Partition

NOW = 1_790_000_000_000
PLACE = Partition("out", 0)
PRODUCER = 7, 3, 11
"""Id, epoch and first sequence."""

TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
VALUE = st.none() | st.binary(max_size=300)
MESSAGES = st.lists(
    st.builds(
        Message,
        topic=st.just("out"),
        key=VALUE,
        value=VALUE,
        headers=st.lists(st.tuples(TEXT, VALUE), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=80,
)


def sent(batch: WrittenBatch, *, transactional: bool = True) -> bytes:
    batch.set_producer_state(*PRODUCER, transactional)
    batch.close()
    return bytes(batch.buffer())


def a_message(size: int, key: bytes | None = None) -> Message:
    return Message("out", key, b"x" * size, ())


@given(MESSAGES)
def test_a_batch_has_the_bytes_that_the_library_writes(messages: list[Message]) -> None:
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    for message in messages:
        builder.append(NOW, message.key, message.value, list(message.headers))
    builder.set_producer_state(*PRODUCER, True)
    builder.close()
    [batch] = written(messages, 1 << 30, NOW)
    assert sent(batch) == bytes(builder.buffer())


def test_a_batch_whose_producer_has_no_id_has_the_bytes_that_the_library_writes() -> None:
    """As at_least_once may send it: the producer's state is never set."""
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    builder.append(NOW, None, b"x", [])
    builder.close()
    [batch] = written([a_message(1)], 1 << 30, NOW)
    batch.close()
    assert bytes(batch.buffer()) == bytes(builder.buffer())


@given(MESSAGES)
def test_what_was_written_is_read_back(messages: list[Message]) -> None:
    [batch] = written(messages, 1 << 30, NOW)
    read = Batch.of(memoryview(sent(batch)))
    assert read.checksum == read.head.crc
    records, _ = read.records(PLACE, 1 << 30)
    assert [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in records] == [
        (number, NOW, message.key, message.value, message.headers) for number, message in enumerate(messages)
    ]


def test_a_value_of_any_length_is_written() -> None:
    lengths = [0, 1, 63, 64, 8_191, 8_192, 1 << 20, (1 << 20) + 1]
    [batch] = written([a_message(length) for length in lengths], 1 << 30, NOW)
    records, _ = Batch.of(memoryview(sent(batch))).records(PLACE, 1 << 30)
    assert [len(record.value or b"") for record in records] == lengths


@pytest.mark.parametrize("transactional", [True, False])
def test_a_batch_says_who_wrote_it_and_whether_in_a_transaction(transactional: bool) -> None:
    [batch] = written([a_message(1)], 1_000, NOW)
    head = Batch.of(memoryview(sent(batch, transactional=transactional)))
    assert (head.head.producer_id, head.head.producer_epoch, head.head.base_sequence) == PRODUCER
    assert head.transactional == transactional


def test_batches_keep_the_order_and_stay_below_the_bound_but_for_one_message_alone() -> None:
    messages = [a_message(size, b"%d" % number) for number, size in enumerate((100, 100, 100, 900, 10, 10))]
    batches = list(written(messages, 350, NOW))
    assert [batch.next_offset() for batch in batches] == [2, 1, 1, 2]
    assert [batch.size_in_bytes() <= 350 for batch in batches] == [True, True, False, True]
    read = [Batch.of(memoryview(sent(batch))).records(PLACE, 1 << 20)[0] for batch in batches]
    assert [record.key for records in read for record in records] == [message.key for message in messages]
    assert [[record.offset for record in records] for records in read] == [[0, 1], [0], [0], [0, 1]]


def test_a_batch_may_be_as_large_as_the_bound() -> None:
    messages = [a_message(100), a_message(100)]
    [whole] = written(messages, 1_000, NOW)
    assert len(list(written(messages, whole.size_in_bytes(), NOW))) == 1
    assert len(list(written(messages, whole.size_in_bytes() - 1, NOW))) == 2


def test_of_no_message_there_is_no_batch() -> None:
    assert list(written([], 1_000, NOW)) == []


def test_a_batch_that_may_be_on_its_way_changes_no_more() -> None:
    [batch] = written([a_message(1)], 1_000, NOW)
    first = sent(batch)
    with pytest.raises(RuntimeError, match="keeps its producer"):
        batch.set_producer_state(8, 0, 0, True)
    batch.close()
    assert bytes(batch.buffer()) == first
    assert next(iter(MemoryRecords(first))).validate_crc()


@given(st.binary(max_size=100))
def test_a_key_hashes_as_in_kafkas_own_clients(key: bytes) -> None:
    assert batch_writing.murmur2(key) == murmur2(key)


def test_a_key_has_one_partition_and_a_message_without_a_key_goes_where_a_leader_is() -> None:
    partitions = [0, 1, 2, 3, 4, 5, 6]
    assert {key: partition_for(key, partitions, [3]) for key in (b"photos/1.jpg", b"")} == {
        key: (murmur2(key) & 0x7FFFFFFF) % 7 for key in (b"photos/1.jpg", b"")
    }
    assert {partition_for(None, partitions, [3, 5]) for _ in range(100)} == {3, 5}
    assert partition_for(None, partitions, []) in partitions
