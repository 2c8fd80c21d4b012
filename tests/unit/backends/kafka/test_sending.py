"""Whole batches are handed to kafka-python's producer, which treats them as its own."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import errors as kafka_errors
from kafka.cluster import ClusterMetadata
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager
from kafka.protocol.producer import ProduceResponse
from kafka.structs import TopicPartition

from workers.backends.kafka.batches.batch import Batch
from workers.backends.kafka.sending import keep_whole, send_all
from workers.types import Message, Partition

PARTITIONS = 3
Answer = ProduceResponse.TopicProduceResponse.PartitionProduceResponse


class Scene:
    """The library's own accumulator, sender and transactions, with a cluster of one broker that never answers."""

    def __init__(self, transactional_id: str | None = "me") -> None:
        self.transactions = TransactionManager(transactional_id=transactional_id, api_version=(2, 8))
        self.transactions.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 3))
        # Long enough to see that whole batches do not wait for company.
        self.accumulator = RecordAccumulator(batch_size=1_000, linger_ms=60_000, transaction_manager=self.transactions)
        self.cluster = Mock(spec=ClusterMetadata)
        self.cluster.leader_for_partition.return_value = 1
        self.cluster.partitions_for_broker.return_value = {TopicPartition("out", n) for n in range(PARTITIONS)}
        self.cluster.available_partitions_for_topic.return_value = set(range(PARTITIONS))
        self.sender = Sender(Mock(), self.cluster, self.accumulator, transaction_manager=self.transactions)
        self.producer: Any = SimpleNamespace(
            _accumulator=self.accumulator,
            _transaction_manager=self.transactions,
            _metadata=self.cluster,
            _sender=self.sender,
            partitions_for=lambda topic: set(range(PARTITIONS)),
        )
        if transactional_id is not None:
            self._state("INITIALIZING", "READY", "IN_TRANSACTION")

    def _state(self, *names: str) -> None:
        kinds = type(self.transactions._current_state)
        for name in names:
            self.transactions._transition_to(kinds[name])

    def drained(self) -> list[Any]:
        """What the library sends now, as it is sent. To be called until there is nothing left."""
        ready, _, unknown = self.accumulator.ready(self.cluster)
        assert not unknown
        for partition in range(PARTITIONS):
            self.transactions._partitions_in_transaction.add(TopicPartition("out", partition))
        return list(self.accumulator.drain(self.cluster, ready, 1 << 20).get(1, []))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def a_message(key: str | None, value: bytes = b"{}") -> Message:
    return Message("out", None if key is None else key.encode(), value, (("traceparent", b"t"),))


def read(batch: Any) -> list[tuple[bytes | None, bytes | None]]:
    records, _ = Batch.of(memoryview(bytes(batch.records.buffer()))).records(Partition("out", 0), 1 << 20)
    return [(record.key, record.value) for record in records]


def test_all_is_sent_at_once_in_order_under_one_sequence_a_partition(scene: Scene) -> None:
    messages = [a_message("same", b"%d" % number + b"x" * 300) for number in range(10)]
    handed = send_all(scene.producer, messages)
    drained = []
    while batches := scene.drained():
        drained += batches
    assert len(drained) == len(handed) == 5
    assert [pair for batch in drained for pair in read(batch)] == [(m.key, m.value) for m in messages]
    assert [batch.base_sequence for batch in drained] == [0, 2, 4, 6, 8]
    assert {(batch.producer_id, batch.producer_epoch) for batch in drained} == {(7, 3)}
    assert Batch.of(memoryview(bytes(drained[0].records.buffer()))).transactional


def test_messages_of_many_keys_go_to_their_partitions_each_told_to_the_transaction(scene: Scene) -> None:
    messages = [a_message(f"key {number}") for number in range(40)]
    send_all(scene.producer, messages)
    assert scene.transactions._new_partitions_in_transaction == {TopicPartition("out", n) for n in range(PARTITIONS)}
    found = sorted(pair for batch in scene.drained() for pair in read(batch))
    assert found == sorted((message.key, message.value) for message in messages)


def test_a_producer_without_transactions_is_told_of_no_partition() -> None:
    """As at_least_once has it. Guard: kafka-python would wait for a transaction that never takes them up."""
    scene = Scene(transactional_id=None)
    send_all(scene.producer, [a_message("a")])
    assert not scene.transactions.has_partitions_to_add()
    [batch] = scene.drained()
    assert not Batch.of(memoryview(bytes(batch.records.buffer()))).transactional


def test_a_message_has_the_time_at_which_it_is_handed_over(scene: Scene) -> None:
    before_ms = int(time.time() * 1000)
    send_all(scene.producer, [a_message("a")])
    [batch] = scene.drained()
    head = Batch.of(memoryview(bytes(batch.records.buffer()))).head
    assert before_ms <= head.first_timestamp == head.max_timestamp <= time.time() * 1000


def test_a_batch_is_confirmed_once_the_broker_has_it_and_not_before(scene: Scene) -> None:
    [handed] = send_all(scene.producer, [a_message(None)])
    [batch] = scene.drained()
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="no answer"):
        handed.confirm(0.01)
    scene.sender._complete_batch(batch, Answer(error_code=0, base_offset=5))
    handed.confirm(0.01)
    assert not scene.accumulator.has_incomplete


@pytest.mark.parametrize("error", [kafka_errors.MessageSizeTooLargeError, kafka_errors.TopicAuthorizationFailedError])
def test_what_the_broker_refuses_fails_whole_and_is_never_halved(scene: Scene, error: Any) -> None:
    keep_whole(scene.producer)
    [handed] = send_all(scene.producer, [a_message("a"), a_message("a")])
    [batch] = scene.drained()
    scene.sender._complete_batch(batch, Answer(error_code=error.errno))
    with pytest.raises(error):
        handed.confirm(0.01)


def test_a_batch_that_is_never_sent_expires(scene: Scene) -> None:
    [handed] = send_all(scene.producer, [a_message("a")])
    [expired] = scene.accumulator.expired_batches(now=time.monotonic() + 1_000)
    scene.sender._complete_batch_with_exception(expired, kafka_errors.KafkaTimeoutError("expired"))
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="expired"):
        handed.confirm(0.01)


def test_a_producer_that_is_ended_by_force_fails_what_it_has(scene: Scene) -> None:
    [handed] = send_all(scene.producer, [a_message("a")])
    scene.accumulator.abort_incomplete_batches()
    with pytest.raises(kafka_errors.IllegalStateError):
        handed.confirm(0.01)


def test_a_producer_that_has_failed_or_is_closed_takes_nothing(scene: Scene) -> None:
    scene.accumulator.close()
    with pytest.raises(kafka_errors.IllegalStateError, match="closed"):
        send_all(scene.producer, [a_message("a")])
    scene.transactions.transition_to_fatal_error(kafka_errors.ProducerFencedError())
    with pytest.raises(kafka_errors.KafkaError, match="failed with errors"):
        send_all(scene.producer, [a_message("a")])


def test_of_no_message_nothing_is_handed_over(scene: Scene) -> None:
    assert send_all(scene.producer, []) == []
