"""How our producer is given a transaction's messages: as whole record batches, and not one by one.

kafka-python 3.0.12 spends 35 us of Python on each `send` (a lock, a future, a hash, a dozen calls), and 20 more on its
own thread to complete each message's future: together as much as all the rest of publishing an event (measured). A
transaction's messages are all there at once, so their batches are written here and put where the library takes batches
from. What it does with them is what it does with its own: sequence numbers, requests, retries, timeouts. Used of it
besides what it documents:

* `KafkaProducer._accumulator`: its batches by partition, and those that are not done.
* `KafkaProducer._transaction_manager`: told of each partition of a transaction.
* `ProducerBatch` with records of our own, which it asks what `WrittenBatch` answers.
* `Sender._can_split`, see `keep_whole`.

`tests/unit/backends/kafka/test_sending.py` notices a library in which these are not what they were.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.producer.producer_batch import ProducerBatch

from workers.backends.kafka.batches.writing import WrittenBatch, partition_for, written
from workers.types import Message


class SentBatch:
    """A batch that is on its way, or waits for it."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def confirm(self, timeout_s: float) -> None:
        """Wait until the broker has its records.

        Raises:
            kafka.errors.KafkaError: it has not, or that is not known within `timeout_s`.
        """
        future = self._batch.produce_future
        if not future.wait(timeout_s) or not future.is_done:
            raise kafka_errors.KafkaTimeoutError(f"{self._batch.topic_partition} has no answer after {timeout_s:g} s")
        _, _, error_of = future.value
        if error_of is not None:
            raise error_of(0)


def keep_whole(producer: Any) -> None:
    """Let a batch fail that is too large for its broker, instead of being halved and sent again.

    Half a batch has no future that we could ask. A topic's limit that was lowered is read anew after the failure.
    """
    producer._sender._can_split = lambda _batch, _error: False


def send_all(producer: Any, messages: Iterable[Message]) -> list[SentBatch]:
    """Hand these messages to a producer that may send to their topics; `flush` sends them at once.

    On the only thread that sends with this producer. Messages of one partition stay in order, in batches of at most the
    producer's `batch_size`.

    Raises:
        kafka.errors.KafkaError: the producer has failed before, or a topic's partitions are not to be known.
    """
    by_partition: dict[TopicPartition, list[Message]] = {}
    by_topic: dict[str, list[Message]] = {}
    for message in messages:
        by_topic.setdefault(message.topic, []).append(message)
    for topic, of_topic in by_topic.items():
        partitions = sorted(producer.partitions_for(topic))
        available = list(producer._metadata.available_partitions_for_topic(topic))
        for message in of_topic:
            number = partition_for(message.key, partitions, available)
            by_partition.setdefault(TopicPartition(topic, number), []).append(message)
    return [sent for partition, some in by_partition.items() for sent in _send(producer, partition, some)]


def _send(producer: Any, partition: TopicPartition, messages: Sequence[Message]) -> list[SentBatch]:
    accumulator, transactions = producer._accumulator, producer._transaction_manager
    if transactions is not None and transactions.is_transactional():
        transactions.maybe_add_partition_to_transaction(partition)
    batches = written(messages, accumulator.config["batch_size"], int(time.time() * 1000))
    return [SentBatch(_enqueued(accumulator, partition, records)) for records in batches]


def _enqueued(accumulator: Any, partition: TopicPartition, records: WrittenBatch) -> Any:
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(partition):
            if accumulator._closed:
                raise kafka_errors.IllegalStateError("the producer is closed")
            batch = ProducerBatch(partition, records)
            accumulator._batches[partition].append(batch)
            accumulator._incomplete.add(batch)
            return batch
    finally:
        accumulator._appends_in_progress.decrement()
