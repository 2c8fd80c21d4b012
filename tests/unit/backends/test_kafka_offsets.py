"""Offsets are sent while their transaction's messages are under way, by kafka-python's own client and requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition

from workers.backends import kafka_offsets
from workers.backends.kafka_offsets import OffsetsMeanwhile, knows_coordinators

GROUP = ConsumerGroupMetadata("group", 3, "me")
OFFSETS = {TopicPartition("images", number): OffsetAndMetadata(number + 5, "", -1) for number in range(2)}
LOADING = kafka_errors.CoordinatorLoadInProgressError.errno
CONCURRENT = kafka_errors.ConcurrentTransactionsError.errno
Topic = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic


def added(error_code: int = 0) -> Any:
    return AddOffsetsToTxnResponse(throttle_time_ms=0, error_code=error_code)


def taken(**error_codes: int) -> Any:
    """An answer about these partitions of the topic: `p0=0` took it."""
    answers = [Topic.TxnOffsetCommitResponsePartition(int(name[1:]), code) for name, code in error_codes.items()]
    return TxnOffsetCommitResponse(throttle_time_ms=0, topics=[Topic(name="images", partitions=answers)])


class Scene:
    """The library's own client, sender and transactions; its answers are made here. `sent` has (node, request)."""

    def __init__(self) -> None:
        self.client = KafkaNetClient(bootstrap_servers=["127.0.0.1:1"])
        self.transactions = TransactionManager(transactional_id="worker-0", api_version=(2, 8))
        self.transactions.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 4))
        self.transactions._transaction_coordinator = "coordinator-1"
        self.transactions._consumer_group_coordinator = "coordinator-2"
        sender = Sender(self.client, self.client.cluster, None, transaction_manager=self.transactions)
        self.producer: Any = SimpleNamespace(_sender=sender, _transaction_manager=self.transactions)
        self.sent: list[tuple[object, Any]] = []
        self.answers: list[Any] = []
        self.client._manager.send = self._send

    def _send(self, request: Any, node_id: object) -> Future:
        self.sent.append((node_id, request))
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            return Future()
        return Future().failure(answer) if isinstance(answer, Exception) else Future().success(answer)

    def accepted(self, *answers: Any) -> bool:
        self.answers = list(answers)
        meanwhile = OffsetsMeanwhile(self.producer, GROUP, OFFSETS)
        self.client.poll(timeout_ms=1_000, future=meanwhile._future)
        return meanwhile.accepted(0.01)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.client.close()


def test_the_group_is_added_and_its_offsets_are_sent_under_our_membership_and_epoch(scene: Scene) -> None:
    assert scene.accepted(added(), taken(p0=0, p1=0))
    (first_node, adding), (second_node, sending) = scene.sent
    assert isinstance(adding, AddOffsetsToTxnRequest)
    assert isinstance(sending, TxnOffsetCommitRequest)
    assert (first_node, second_node) == ("coordinator-1", "coordinator-2")
    for request in (adding, sending):
        assert (request.transactional_id, request.group_id) == ("worker-0", "group")
        assert (request.producer_id, request.producer_epoch) == (7, 4)
    assert (sending.generation_id, sending.member_id) == (3, "me")
    [topic] = sending.topics
    assert topic.name == "images"
    assert {part.partition_index: part.committed_offset for part in topic.partitions} == {0: 5, 1: 6}


@pytest.mark.parametrize(
    "answers",
    [
        [added(kafka_errors.ProducerFencedError.errno)],
        [added(kafka_errors.NotCoordinatorError.errno)],
        [kafka_errors.NodeNotReadyError("paused")],
        [added(), taken(p0=0, p1=kafka_errors.IllegalGenerationError.errno)],
        [added(), taken(p0=0)],
        [added(), taken()],
        [added(), kafka_errors.KafkaConnectionError("gone")],
        [added(), SimpleNamespace()],
    ],
    ids=[
        "fenced", "another coordinator", "no connection", "refused", "one left out", "all left out",
        "broken off", "nonsense",
    ],
)  # fmt: skip
def test_nothing_but_a_yes_for_each_partition_is_taken_for_one(scene: Scene, answers: Sequence[Any]) -> None:
    assert not scene.accepted(*answers)
    assert len(scene.sent) == len(answers), "and nothing is sent again"


def test_no_offset_is_sent_before_the_group_was_added(scene: Scene) -> None:
    meanwhile = OffsetsMeanwhile(scene.producer, GROUP, OFFSETS)
    scene.client.poll(timeout_ms=10, future=meanwhile._future)
    assert [type(request) for _, request in scene.sent] == [AddOffsetsToTxnRequest]


def test_the_group_is_added_behind_the_partitions_and_no_offset_goes_before_these_are_in(scene: Scene) -> None:
    """Guard: a broker that verifies messages or offsets refuses them while their transaction is being added to."""
    partition = TopicPartition("out", 0)
    scene.transactions._new_partitions_in_transaction.add(partition)
    scene.answers = [added(), taken(p0=0, p1=0)]
    meanwhile = OffsetsMeanwhile(scene.producer, GROUP, OFFSETS)

    def sent_within(seconds: float) -> list[type]:
        scene.client.poll(timeout_ms=seconds * 1_000, future=meanwhile._future)
        return [type(request) for _, request in scene.sent]

    assert sent_within(0.05) == []
    scene.transactions._new_partitions_in_transaction.clear()
    scene.transactions._pending_partitions_in_transaction.add(partition)
    assert sent_within(0.05) == [AddOffsetsToTxnRequest]
    scene.transactions._pending_partitions_in_transaction.clear()
    assert sent_within(1.0) == [AddOffsetsToTxnRequest, TxnOffsetCommitRequest]
    assert meanwhile.accepted(0.01)


@pytest.mark.parametrize("stays", ["_new_partitions_in_transaction", "_pending_partitions_in_transaction"])
def test_partitions_that_are_never_in_are_not_waited_for_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, stays: str
) -> None:
    monkeypatch.setattr(kafka_offsets, "_LOOKS", 3)
    getattr(scene.transactions, stays).add(TopicPartition("out", 0))
    assert not scene.accepted(added(), taken(p0=0, p1=0))


def test_the_group_is_added_again_while_the_broker_ends_the_transaction_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_offsets, "_RETRY_S", 0.0)
    assert scene.accepted(added(CONCURRENT), added(CONCURRENT), added(), taken(p0=0, p1=0))
    assert len(scene.sent) == 4


def test_offsets_go_again_while_the_group_can_not_verify_them(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_offsets, "_RETRY_S", 0.0)
    assert scene.accepted(added(), taken(p0=0, p1=LOADING), taken(p0=LOADING, p1=LOADING), taken(p0=0, p1=0))
    assert [type(request) for _, request in scene.sent] == [AddOffsetsToTxnRequest, *[TxnOffsetCommitRequest] * 3]


def test_a_group_that_goes_on_loading_is_not_asked_for_ever(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_offsets, "_RETRY_S", 0.0)
    monkeypatch.setattr(kafka_offsets, "_TRIES", 3)
    assert not scene.accepted(added(), *[taken(p0=0, p1=LOADING)] * 9)
    assert len(scene.sent) == 4


def test_a_transaction_that_never_ends_is_not_asked_about_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_offsets, "_RETRY_S", 0.0)
    monkeypatch.setattr(kafka_offsets, "_TRIES", 3)
    assert not scene.accepted(*[added(CONCURRENT)] * 9)
    assert len(scene.sent) == 3


def test_what_has_no_answer_is_neither_taken_nor_refused(scene: Scene) -> None:
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="have no answer"):
        scene.accepted(added())


@pytest.mark.parametrize("forget", ["_transaction_coordinator", "_consumer_group_coordinator"])
def test_coordinators_are_known_once_the_library_has_found_both(scene: Scene, forget: str) -> None:
    assert knows_coordinators(scene.producer)
    setattr(scene.transactions, forget, None)
    assert not knows_coordinators(scene.producer)
