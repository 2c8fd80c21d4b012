"""Two Kafkas to run one contract on: the in-memory broker and a real one, each with one input and one output topic."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypedDict, Unpack

import confluent_kafka
import zstandard
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import MemberToRemove
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from tagstream_testing.memory_broker import Member
from tagstream_testing.memory_kafka import Fault, MemoryBroker, MemoryPublisher, MemoryRecordSource
from tests.fixtures import Unique
from tests.support.broker import await_markers
from tests.support.raw_kafka import ZSTD, batch, produce, record
from workers.backends.kafka import KafkaPublisher, KafkaRecordSource, ensure_topics
from workers.backends.kafka.types import Delivery, OffsetReset
from workers.ports import Publisher, RecordSource
from workers.types import Assignment, Headers, Membership, Partition, ReadRecord, Record, Unreadable

MAX_MESSAGE_BYTES = 20_000
BATCH_BYTES = 1 << 20
FAIL_WITHIN_S = 90.0


class How(TypedDict, total=False):
    """A publisher's options; by default exactly-once, from the earliest record, under the id `one`."""

    membership: Callable[[], Membership]
    transactional_id: str
    delivery: Delivery
    offset_reset: OffsetReset
    topic: str


class OwnTopics(Protocol):
    """One Kafka with topics of this test alone: `input` (2 partitions) and `output` (1)."""

    group: str
    input: str
    output: str

    def source(self, *, topic: str | None = None) -> RecordSource: ...

    def publisher(self, source: RecordSource, **how: Unpack[How]) -> Publisher: ...

    def append(self, partition: int, value: bytes | None, *, key: bytes | None = b"key", headers: Headers = ()) -> int:
        """Add a record to the input, committed; its offset."""

    def append_aborted(self, partition: int, value: bytes) -> None: ...

    def append_open(self, partition: int, value: bytes) -> Callable[[], None]:
        """Add a record to the input in a transaction that stays open until the answer is called, which aborts it."""

    def append_unreadable(self, partition: int, offsets: int) -> int: ...

    def delete_records(self, partition: int, before: int) -> None: ...

    def visible(self) -> list[ReadRecord]: ...

    def committed(self) -> Mapping[int, int]: ...

    def rename(self, source: RecordSource) -> None:
        """Let the member rejoin at its next poll under a new id, with no callback."""

    def expel(self, source: RecordSource) -> None:
        """Put the member out of the group behind its back."""

    def fail_commit(self, publisher: Publisher, *, happened: bool) -> None: ...

    def leave_pending(self, source: RecordSource, assignment: Assignment, offset: int) -> Callable[[], None]:
        """Open a transaction with an offset of the assignment's partition; the answer commits it."""

    def close(self) -> None: ...


class MemoryWorld:
    group = "group"
    input = "input"
    output = "output"

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self._members: dict[RecordSource, Member] = {}
        self.broker.create_topic(self.input, 2)
        self.broker.create_topic(self.output, 1, max_message_bytes=MAX_MESSAGE_BYTES)

    def source(self, *, topic: str | None = None) -> MemoryRecordSource:
        source = MemoryRecordSource(self.broker, self.group, [topic or self.input])
        self._members[source] = source.member
        return source

    def publisher(self, source: RecordSource, **how: Unpack[How]) -> MemoryPublisher:
        return MemoryPublisher(
            self.broker,
            self.group,
            how.get("transactional_id", "one"),
            membership=how.get("membership", source.membership),
            output_topics=[how.get("topic", self.output)],
            delivery=how.get("delivery", "exactly_once"),
            offset_reset=how.get("offset_reset", "earliest"),
        )

    def append(self, partition: int, value: bytes | None, *, key: bytes | None = b"key", headers: Headers = ()) -> int:
        return self.broker.append(self.input, partition, key, value, headers)

    def append_aborted(self, partition: int, value: bytes) -> None:
        self.broker.append_aborted(self.input, partition, b"key", value)

    def append_open(self, partition: int, value: bytes) -> Callable[[], None]:
        return self.broker.append_open(self.input, partition, b"key", value)

    def append_unreadable(self, partition: int, offsets: int) -> int:
        why = Unreadable("batch-too-large", "more than fits")
        return self.broker.append_unreadable(self.input, partition, offsets, why)

    def delete_records(self, partition: int, before: int) -> None:
        self.broker.delete_records(self.input, partition, before)

    def visible(self) -> list[ReadRecord]:
        return self.broker.visible(self.output)

    def committed(self) -> Mapping[int, int]:
        return {partition.number: offset for partition, offset in self.broker.committed(self.group).items()}

    def rename(self, source: RecordSource) -> None:
        self.broker.rename(self.group, self._members[source])

    def expel(self, source: RecordSource) -> None:
        self.broker.expel(self.group, self._members[source])

    def fail_commit(self, publisher: Publisher, *, happened: bool) -> None:
        self.broker.fail_next(Fault.COMMIT_UNACKNOWLEDGED if happened else Fault.COMMIT_LOST)

    def leave_pending(self, source: RecordSource, assignment: Assignment, offset: int) -> Callable[[], None]:
        with self.broker.changed:
            transaction = self.broker.begin("other", self.broker.init_producer("other"))
            self.broker.add_offsets(transaction, self.group, source.membership(), {assignment.partition: offset})

        def commit() -> None:
            with self.broker.changed:
                self.broker.commit(transaction)

        return commit

    def close(self) -> None: ...


class KafkaWorld:
    def __init__(self, servers: str, unique: Unique) -> None:
        self.servers = servers
        self.group = unique("group")
        self.input = unique("input")
        self.output = unique("output")
        self._id = unique("worker")
        self._sources: dict[RecordSource, KafkaRecordSource] = {}
        self._publishers: dict[Publisher, KafkaPublisher] = {}
        self._admin: Any = KafkaAdminClient(bootstrap_servers=servers)
        self._producer: Any = KafkaProducer(bootstrap_servers=servers)
        ensure_topics(servers, {self.input: (2, {}), self.output: (1, {"max.message.bytes": str(MAX_MESSAGE_BYTES)})})

    def source(self, *, topic: str | None = None, session_timeout_s: float = 6) -> KafkaRecordSource:
        source = KafkaRecordSource(
            self.servers,
            self.group,
            [topic or self.input],
            session_timeout_s=session_timeout_s,
            batch_bytes=BATCH_BYTES,
        )
        self._sources[source] = source
        return source

    def publisher(self, source: RecordSource, **how: Unpack[How]) -> KafkaPublisher:
        publisher = KafkaPublisher(
            self.servers,
            self.group,
            f"{self._id}-{how.get('transactional_id', 'one')}",
            membership=how.get("membership", source.membership),
            commit=source.commit,
            output_topics=[how.get("topic", self.output)],
            delivery=how.get("delivery", "exactly_once"),
            offset_reset=how.get("offset_reset", "earliest"),
        )
        self._publishers[publisher] = publisher
        return publisher

    def append(self, partition: int, value: bytes | None, *, key: bytes | None = b"key", headers: Headers = ()) -> int:
        future = self._producer.send(self.input, value, key, list(headers), partition)
        return int(future.get(timeout=60).offset)

    def append_aborted(self, partition: int, value: bytes) -> None:
        self.append_open(partition, value)()

    def append_open(self, partition: int, value: bytes) -> Callable[[], None]:
        producer = self._transactional("aborting")
        producer.begin_transaction()
        producer.send(self.input, value, b"key", partition=partition).get(timeout=60)

        def abort() -> None:
            producer.abort_transaction()
            producer.close()

        return abort

    def append_unreadable(self, partition: int, offsets: int) -> int:
        records = [record(bytes(2 * BATCH_BYTES // offsets), delta=delta) for delta in range(offsets)]
        data = batch(records, attributes=ZSTD, compress=zstandard.ZstdCompressor().compress)
        error, offset = produce(self.servers, self.input, partition, data)
        assert error == 0
        return offset

    def delete_records(self, partition: int, before: int) -> None:
        self._admin.delete_records({TopicPartition(self.input, partition): before})

    def visible(self) -> list[ReadRecord]:
        """By a client that shares no code with ours."""
        await_markers(self.servers)
        consumer = self._reader(f"{self.group}-reader")
        consumer.assign([confluent_kafka.TopicPartition(self.output, 0, 0)])
        read: list[ReadRecord] = []
        try:
            while (message := consumer.poll(10)) is not None:
                if (error := message.error()) is not None:
                    assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
                    return read
                read.append(_read(message))
        finally:
            consumer.close()
        raise AssertionError("the reader came to no end")

    def committed(self) -> Mapping[int, int]:
        consumer = self._reader(self.group)
        asked = [confluent_kafka.TopicPartition(self.input, number) for number in (0, 1)]
        try:
            answered = consumer.committed(asked, timeout=60)
        finally:
            consumer.close()
        return {place.partition: place.offset for place in answered if place.offset >= 0}

    def rename(self, source: RecordSource) -> None:
        """Into the hole that a frozen member can fall into: its generation is gone while a rejoin was pending."""
        self.expel(source)
        coordinator = self._sources[source]._consumer._coordinator
        coordinator.reset_generation()
        coordinator.rejoining = True

    def expel(self, source: RecordSource) -> None:
        member = MemberToRemove(member_id=source.membership().member_id)
        self._admin.remove_group_members(self.group, [member])

    def fail_commit(self, publisher: Publisher, *, happened: bool) -> None:
        producer = self._publishers[publisher]._producer
        commit = producer.commit_transaction

        def failing() -> None:
            if happened:
                commit()
            raise kafka_errors.RequestTimedOutError("no answer")

        producer.commit_transaction = failing

    def leave_pending(self, source: RecordSource, assignment: Assignment, offset: int) -> Callable[[], None]:
        producer = self._transactional("other")
        producer.begin_transaction()
        generation, member_id = source.membership()
        producer.send_offsets_to_transaction(
            {TopicPartition(*assignment.partition): OffsetAndMetadata(offset, "", -1)},
            ConsumerGroupMetadata(self.group, generation, member_id),
        )

        def commit() -> None:
            producer.commit_transaction()
            producer.close()

        return commit

    def close(self) -> None:
        made: list[RecordSource | Publisher] = [*self._sources, *self._publishers]
        for closing in made:
            with suppress(Exception):
                closing.close()
        self._producer.close()
        self._admin.close()

    def _reader(self, group: str) -> confluent_kafka.Consumer:
        return confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )

    def _transactional(self, name: str) -> Any:
        producer = KafkaProducer(
            bootstrap_servers=self.servers, transactional_id=f"{self._id}-{name}", retry_backoff_ms=15
        )
        producer.init_transactions()
        return producer


def _read(message: Any) -> ReadRecord:
    """One of confluent-kafka's messages in our words."""
    return ReadRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def poll_until(
    source: RecordSource, enough: Callable[[list[Record], list[Assignment]], bool]
) -> tuple[list[Record], list[Assignment]]:
    """Poll until enough records have come; all of them."""
    records: list[Record] = []
    started: list[Assignment] = []
    deadline = time.monotonic() + FAIL_WITHIN_S
    while not enough(records, started):
        assert time.monotonic() < deadline, f"only {len(records)} records and {started} came"
        polled = source.poll(0.1)
        records.extend(polled.records)
        started.extend(polled.started)
    return records, started


def assignments_of(source: RecordSource, count: int = 2) -> dict[int, Assignment]:
    _, started = poll_until(source, lambda _, started: len({e.partition for e in started if e.current}) >= count)
    return {assignment.partition.number: assignment for assignment in started if assignment.current}


def records_of(source: RecordSource, count: int) -> list[Record]:
    return poll_until(source, lambda records, _: len(records) >= count)[0]


def poll_for(source: RecordSource, seconds: float) -> list[Record]:
    """All records within this time."""
    deadline = time.monotonic() + seconds
    return poll_until(source, lambda *_: time.monotonic() > deadline)[0]


def partition_of(world: OwnTopics, number: int) -> Partition:
    return Partition(world.input, number)
