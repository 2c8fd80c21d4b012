"""Transactions of version 2, by the library's own objects: what is asked, and what its answers change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager, TransactionState
from kafka.protocol.producer import AddOffsetsToTxnResponse, EndTxnResponse, TxnOffsetCommitResponse
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from workers.backends.kafka.transactions import use_version_2

OUT, IN = TopicPartition("out", 1), TopicPartition("in", 0)
GROUP = ConsumerGroupMetadata("group", 3, "me")
CONCURRENT_TRANSACTIONS, PRODUCER_FENCED, ABORTABLE = 51, 90, 120


class Scene:
    """A producer's transactions and its sender, without a network: in a transaction of producer 7, epoch 3."""

    def __init__(self, *, version_2: bool = True) -> None:
        self.transactions = TransactionManager(transactional_id="me", api_version=(4, 0), metadata=Mock())
        accumulator = RecordAccumulator(transaction_manager=self.transactions)
        self.sender = Sender(Mock(), Mock(), accumulator, transaction_manager=self.transactions)
        self.transactions.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 3))
        if version_2:
            use_version_2(SimpleNamespace(_transaction_manager=self.transactions, _sender=self.sender))
        for state in (TransactionState.INITIALIZING, TransactionState.READY):
            self.transactions._transition_to(state)
        self.transactions.begin_transaction()

    def next(self) -> Any:
        """What the sender's thread is to ask next."""
        return self.transactions.next_request_handler(has_incomplete_batches=False)

    def send(self) -> Any:
        """The request of one message; it is numbered as the sender does it."""
        self.transactions.maybe_add_partition_to_transaction(OUT)
        assert self.next() is None
        assert self.transactions.is_send_to_partition_allowed(OUT)
        self.transactions.sequence_number(OUT)
        self.transactions.increment_sequence_number(OUT, 1)
        batch = Mock(topic_partition=OUT)
        batch.records.buffer.return_value = b"records"
        return self.sender._produce_request(1, -1, 1_000, [batch])

    def offsets(self) -> tuple[Any, Any]:
        """Their request, and what their sender waits for."""
        result = self.transactions.send_offsets_to_transaction({IN: OffsetAndMetadata(5, "", -1)}, GROUP)
        return self.next(), result

    def end(self) -> tuple[Any, Any]:
        result = self.transactions.begin_commit()
        return self.next(), result


@pytest.fixture
def scene() -> Scene:
    return Scene()


def taken(error_code: int = 0) -> Any:
    topic = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic
    partition = topic.TxnOffsetCommitResponsePartition(partition_index=IN.partition, error_code=error_code)
    return answered(TxnOffsetCommitResponse(topics=[topic(name=IN.topic, partitions=[partition])]))


def ended(error_code: int = 0, producer: int = 7, epoch: int = 4) -> Any:
    return answered(EndTxnResponse(error_code=error_code, producer_id=producer, producer_epoch=epoch))


def answered(answer: Any) -> Any:
    """As it is read from a broker of version 2."""
    return type(answer).decode(answer.encode(version=5), version=5)


def written(request: Any) -> tuple[str, int, int]:
    """Which request of which version it is, and that the library can write it in that version."""
    return request.name, request.API_VERSION, bool(request.encode())


def test_the_client_still_asks_to_add_what_brokers_could_add() -> None:
    """Without our part: two requests before the messages and the offsets, and none that brokers know version 2 by."""
    scene = Scene(version_2=False)
    scene.transactions.maybe_add_partition_to_transaction(OUT)
    assert scene.next().request.name == "AddPartitionsToTxnRequest"
    adding, _ = scene.offsets()
    assert adding.request.name == "AddOffsetsToTxnRequest"
    adding.handle_response(AddOffsetsToTxnResponse(error_code=0))
    offsets = scene.next()
    offsets.handle_response(taken())
    assert offsets.request._max_version < 5
    assert scene.end()[0].request._max_version < 5


def test_nothing_is_asked_but_messages_offsets_and_the_end_each_as_version_2(scene: Scene) -> None:
    assert written(scene.send()) == ("ProduceRequest", 12, True)
    offsets, result = scene.offsets()
    assert written(offsets.request) == ("TxnOffsetCommitRequest", 5, True)
    told = offsets.request
    assert (told.group_id, told.generation_id, told.member_id, told.producer_id, told.producer_epoch) == (
        "group", 3, "me", 7, 3,
    )  # fmt: skip
    offsets.handle_response(taken())
    assert result.succeeded
    end, result = scene.end()
    assert written(end.request) == ("EndTxnRequest", 5, True)
    assert not result.is_done
    end.handle_response(ended())
    assert result.succeeded
    assert scene.next() is None


def test_messages_alone_are_ended_too(scene: Scene) -> None:
    """Guard: the client takes a transaction for one that has not begun until something was added to it."""
    scene.send()
    assert written(scene.end()[0].request) == ("EndTxnRequest", 5, True)


def test_the_next_transaction_goes_by_the_epoch_that_the_end_was_answered_with(scene: Scene) -> None:
    """Also by another producer id: epochs are used up some time. Its messages are numbered anew."""
    scene.send()
    scene.offsets()[0].handle_response(taken())
    scene.end()[0].handle_response(ended(producer=8, epoch=0))
    assert scene.transactions.producer_id_and_epoch == ProducerIdAndEpoch(8, 0)
    scene.transactions.begin_transaction()
    assert scene.transactions.sequence_number(OUT) == 0
    assert not scene.transactions.is_send_to_partition_allowed(OUT)
    offsets, _ = scene.offsets()
    assert (offsets.request.producer_id, offsets.request.producer_epoch) == (8, 0)


@pytest.mark.parametrize(("producer", "epoch"), [(7, 3), (-1, -1)])
def test_an_end_that_names_no_new_epoch_lets_the_numbers_of_messages_go_on(
    scene: Scene, producer: int, epoch: int
) -> None:
    """Guard: a broker acknowledges a message of a number that it has under this epoch, and does not keep it."""
    scene.send()
    scene.offsets()[0].handle_response(taken())
    end, result = scene.end()
    end.handle_response(ended(producer=producer, epoch=epoch))
    assert result.succeeded
    assert scene.transactions.producer_id_and_epoch == ProducerIdAndEpoch(7, 3)
    scene.transactions.begin_transaction()
    scene.send()
    assert scene.transactions.sequence_number(OUT) == 2


def test_an_end_that_is_not_done_yet_is_asked_for_again_under_its_own_epoch(scene: Scene) -> None:
    scene.send()
    scene.offsets()[0].handle_response(taken())
    end, result = scene.end()
    end.handle_response(ended(CONCURRENT_TRANSACTIONS, producer=-1, epoch=-1))
    again = scene.next()
    assert again is end
    assert written(again.request) == ("EndTxnRequest", 5, True)
    assert scene.transactions.producer_id_and_epoch == ProducerIdAndEpoch(7, 3)
    again.handle_response(ended())
    assert result.succeeded
    assert scene.transactions.producer_id_and_epoch == ProducerIdAndEpoch(7, 4)


def test_offsets_that_can_not_be_taken_yet_are_sent_again_as_version_2(scene: Scene) -> None:
    offsets, result = scene.offsets()
    offsets.handle_response(taken(CONCURRENT_TRANSACTIONS))
    assert not result.is_done
    again = scene.next()
    assert written(again.request) == ("TxnOffsetCommitRequest", 5, True)
    again.handle_response(taken())
    assert result.succeeded


@pytest.mark.parametrize(
    ("code", "kind"), [(PRODUCER_FENCED, kafka_errors.ProducerFencedError), (ABORTABLE, kafka_errors.KafkaError)]
)
def test_a_refusal_fails_offsets_and_end_as_before(scene: Scene, code: int, kind: type[Exception]) -> None:
    offsets, refused = scene.offsets()
    offsets.handle_response(taken(code))
    assert isinstance(refused.exception, kind)
    with pytest.raises(kafka_errors.KafkaError):
        scene.transactions.begin_commit()
    other = Scene()
    other.offsets()[0].handle_response(taken())
    end, refused = other.end()
    end.handle_response(ended(code, producer=-1, epoch=-1))
    assert isinstance(refused.exception, kind)
    assert other.transactions.producer_id_and_epoch == ProducerIdAndEpoch(7, 3)
    with pytest.raises(kafka_errors.KafkaError):
        other.transactions.begin_transaction()
