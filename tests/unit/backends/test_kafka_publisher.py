"""The publish thread's protocol, step by step, on a client that only notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import KafkaProducer
from kafka import errors as kafka_errors

from workers.backends import kafka_publisher
from workers.backends.kafka_publisher import KafkaPublisher
from workers.backends.kafka_types import Delivery
from workers.errors import Broken, Misconfigured, Unavailable, Unpublished
from workers.types import Assignment, Membership, Message, Partition, Transaction

PARTITION = Partition("images", 0)


class Scene:
    """A publisher whose clients are mocks and whose time passes by hand. `calls` has what happened, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, delivery: Delivery = "exactly_once") -> None:
        self.calls: list[str] = []
        self.now = 1_000.0
        self.answers = True
        self.member = Membership(3, "me")
        self.producers: list[Any] = []
        self.offsets = Mock()
        self.unreachable = 0
        self.slow_to_take = 0
        self.refused: Exception | None = None
        monkeypatch.setattr(kafka_publisher, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(kafka_publisher, "answers", lambda *_: self.answers)
        monkeypatch.setattr(kafka_publisher, "max_message_bytes", lambda *_, **__: {"out": 1_000, "large": 5_000})
        monkeypatch.setattr(kafka_publisher, "connect", self._connect)
        monkeypatch.setattr(kafka_publisher, "send_all", self._send)
        monkeypatch.setattr(kafka_publisher, "end_producer", lambda producer, within_s: self.calls.append("end"))
        self.publisher = KafkaPublisher(
            "broker:9092",
            "group",
            "worker-0",
            membership=self._membership,
            output_topics=["out", "large"],
            delivery=delivery,
            commit=lambda offsets, timeout_s: self.calls.append(f"commit beside {dict(offsets)}"),
        )
        self.calls.clear()

    @property
    def producer(self) -> Any:
        return self.producers[-1]

    def publish(self, assignment: Assignment | None = None) -> None:
        self.publisher.publish(
            Transaction(
                [Message("out", b"k", b"v", ()), Message("out", b"k", b"w", ())],
                {assignment or Assignment(PARTITION, "me"): 5},
            )
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _membership(self) -> Membership:
        self.calls.append("membership")
        return self.member

    def _connect(self, make: type, *_: Any, **settings: Any) -> Any:
        if make is not KafkaProducer:
            return self.offsets
        if self.unreachable:
            self.unreachable -= 1
            raise Unavailable("kafka", "no broker answers")
        producer = Mock(settings=settings)
        for name in (
            "init_transactions",
            "begin_transaction",
            "flush",
            "send_offsets_to_transaction",
            "commit_transaction",
        ):
            getattr(producer, name).side_effect = self._note(name)
        if self.slow_to_take:
            self.slow_to_take -= 1
            producer.init_transactions.side_effect = kafka_errors.KafkaTimeoutError("still ending what was open")
        self.producers.append(producer)
        return producer

    def _note(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.calls.append(name)

    def _send(self, producer: Any, messages: Sequence[Message]) -> list[Any]:
        assert producer is self.producer
        self.calls.append(f"send {len(messages)}")
        return [Mock(confirm=self._confirm) for _ in range(2)]

    def _confirm(self, timeout_s: float) -> None:
        self.calls.append("confirm")
        if self.refused is not None:
            raise self.refused


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_steps_of_a_transaction_come_in_the_order_that_makes_them_safe(scene: Scene) -> None:
    scene.publish()
    assert scene.calls == [
        "begin_transaction", "send 2", "flush", "confirm", "confirm",
        "membership", "send_offsets_to_transaction", "commit_transaction",
    ]  # fmt: skip


def test_offsets_go_with_the_group_the_generation_and_the_member_id(scene: Scene) -> None:
    scene.publish()
    (offsets, metadata), _ = scene.producer.send_offsets_to_transaction.call_args
    assert {tuple(place): at.offset for place, at in offsets.items()} == {("images", 0): 5}
    assert (metadata.group_id, metadata.generation_id, metadata.member_id) == ("group", 3, "me")


def test_a_message_that_failed_is_never_left_out_of_a_commit(scene: Scene) -> None:
    scene.refused = kafka_errors.KafkaTimeoutError("expired")
    with pytest.raises(Unpublished) as failed:
        scene.publish()
    assert failed.value.cause == "timeout"
    scene.producer.send_offsets_to_transaction.assert_not_called()
    scene.producer.commit_transaction.assert_not_called()


def test_an_answer_that_makes_no_sense_to_the_client_ends_the_process_with_a_sentence(scene: Scene) -> None:
    scene.offsets.committed.side_effect = KeyError("images")
    with pytest.raises(
        Broken, match="offset of images:0: the Kafka client can make nothing of what the broker answers"
    ):
        scene.publisher.committed(Assignment(PARTITION, "me"))
    scene.producer.commit_transaction = Mock(side_effect=ValueError("Buffer underrun"))
    with pytest.raises(Broken, match="publishing: the Kafka client can make nothing"):
        scene.publish()


def test_an_acl_that_forbids_to_publish_is_said_and_not_tried_for_ever(scene: Scene) -> None:
    scene.refused = kafka_errors.TopicAuthorizationFailedError("out")
    with pytest.raises(Misconfigured, match="grant Write"):
        scene.publish()
    scene.producer.commit_transaction.assert_not_called()


@pytest.mark.parametrize("member", [Membership(-1, ""), Membership(-1, "me"), Membership(9, "another")])
def test_nothing_is_committed_under_a_membership_that_is_not_the_assignments(scene: Scene, member: Membership) -> None:
    scene.member = member
    with pytest.raises(Unpublished) as refused:
        scene.publish()
    assert refused.value.cause == "membership"
    scene.producer.send_offsets_to_transaction.assert_not_called()


def test_a_producer_that_failed_is_ended_before_another_is_made_and_never_used_again(scene: Scene) -> None:
    failed = scene.producer
    failed.commit_transaction.side_effect = kafka_errors.RequestTimedOutError("no answer")
    with pytest.raises(Unpublished):
        scene.publish()
    scene.calls.clear()
    scene.publisher.recover()
    assert scene.calls == ["end", "init_transactions"]
    assert scene.producer is not failed
    assert scene.producer.settings["transactional_id"] == failed.settings["transactional_id"] == "worker-0"
    scene.publish()
    failed.begin_transaction.assert_called_once()


def test_what_no_topic_takes_is_found_out_before_a_transaction_begins(scene: Scene) -> None:
    too_large = Message("out", b"k", bytes(1_000), ())
    with pytest.raises(ValueError, match="too large for 'out'"):
        scene.publisher.publish(Transaction([too_large], {Assignment(PARTITION, "me"): 5}))
    assert scene.calls == []
    scene.publish()


def test_a_worker_that_is_fenced_again_at_once_shares_its_id_and_says_so(scene: Scene) -> None:
    def fenced() -> None:
        scene.producer.commit_transaction.side_effect = kafka_errors.ProducerFencedError("another took it")

    fenced()
    with pytest.raises(Unpublished):
        scene.publish()
    scene.publisher.recover()
    fenced()
    with pytest.raises(Broken, match="'worker-0'; give every worker its own"):
        scene.publish()


def test_recovering_waits_as_long_as_the_broker_is_away(scene: Scene) -> None:
    scene.unreachable = 50
    scene.publisher.recover()
    assert scene.now >= 1_000 + 50 * 0.5
    scene.publish()


def test_an_id_that_can_not_be_taken_now_leaves_no_half_made_producer(scene: Scene) -> None:
    scene.slow_to_take = 1
    scene.publisher.recover()
    assert scene.calls == ["end", "end", "init_transactions"]


def test_a_record_that_fits_is_not_made_too_large_by_company(scene: Scene) -> None:
    settings = scene.producer.settings
    assert settings["batch_size"] == 1_000
    assert settings["max_request_size"] == 5_000
    assert settings["delivery_timeout_ms"] < settings["transaction_timeout_ms"]


def test_at_least_once_sends_first_and_commits_with_the_member_after(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, "at_least_once")
    scene.publish()
    assert scene.calls == [
        "send 2", "flush", "confirm", "confirm", "membership", f"commit beside {{{PARTITION!r}: 5}}",
    ]  # fmt: skip
    assert "transactional_id" not in scene.producer.settings


def pending_for_ever(scene: Scene, assignment: Assignment) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("unstable")
    for _ in range(12):
        assert scene.publisher.committed(assignment) is None
        scene.now += 2


def test_a_transaction_that_stays_pending_longer_than_any_may_is_a_lost_marker(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("unstable")
    assignment = Assignment(PARTITION, "me")
    for _ in range(10):
        assert scene.publisher.committed(assignment) is None
        assert not scene.publisher.lost
        scene.now += 2
    assert scene.publisher.committed(assignment) is None
    assert (
        "transaction marker lost: the broker has counted a transaction on images:0" in scene.publisher.lost[assignment]
    )
    assert "transaction marker lost" in caplog.text


def test_a_lost_marker_is_asked_for_and_told_at_a_slow_rate(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Guard: every question costs the other partitions two seconds."""
    assignment = Assignment(PARTITION, "me")
    pending_for_ever(scene, assignment)
    asked, until = scene.offsets.committed.call_count, scene.now + 300
    while scene.now < until:
        assert scene.publisher.committed(assignment) is None
    assert 28 <= scene.offsets.committed.call_count - asked <= 31
    assert 5 <= sum("marker lost" in record.message for record in caplog.records) <= 7


def test_a_lost_marker_that_turns_up_is_forgotten(scene: Scene) -> None:
    assignment = Assignment(PARTITION, "me")
    pending_for_ever(scene, assignment)
    scene.offsets.committed.side_effect = None
    scene.offsets.committed.return_value = 5
    scene.now += 10
    assert scene.publisher.committed(assignment) == 5
    assert not scene.publisher.lost


def test_a_lost_marker_is_known_to_the_partitions_next_assignment_and_to_no_other(scene: Scene) -> None:
    first, second, other = (
        Assignment(PARTITION, "me"),
        Assignment(PARTITION, "me"),
        Assignment(Partition("images", 1), "me"),
    )
    pending_for_ever(scene, first)
    first.end()
    assert scene.publisher.committed(second) is None
    assert set(scene.publisher.lost) == {second}
    scene.offsets.committed.side_effect = None
    scene.offsets.committed.return_value = 9
    assert scene.publisher.committed(other) == 9
    assert set(scene.publisher.lost) == {second}


def test_recovery_ends_soon_after_an_interrupt_and_closing_leaves_nothing_open(scene: Scene) -> None:
    """Guard: the question whether the process ends. Without it SIGTERM while the broker is away waits for ever."""
    scene.unreachable = 10_000
    tries: list[float] = []

    def interrupt_at_the_third(topics: Any, timeout_s: float) -> None:
        tries.append(scene.now)
        if len(tries) == 3:
            scene.publisher.interrupt()

    scene.publisher._read_limits = interrupt_at_the_third  # type: ignore[method-assign]
    scene.publisher.recover()
    assert len(tries) == 3
    with pytest.raises(RuntimeError, match="recover must come first"):
        scene.publish()
    scene.publisher.close()
    scene.offsets.close.assert_called_once()


def test_time_without_a_broker_loses_no_marker(scene: Scene) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("away")
    scene.answers = False
    for _ in range(100):
        assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
        scene.now += 2
    scene.answers = True
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None


def test_a_transaction_that_ends_at_last_was_never_lost(scene: Scene) -> None:
    assignment = Assignment(PARTITION, "me")
    for _ in range(5):
        scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("unstable")
        assert scene.publisher.committed(assignment) is None
        scene.now += 15
        scene.offsets.committed.side_effect = None
        scene.offsets.committed.return_value = 5
        assert scene.publisher.committed(assignment) == 5


def test_a_group_that_may_not_be_read_is_said(scene: Scene) -> None:
    scene.offsets.committed.side_effect = kafka_errors.GroupAuthorizationFailedError("group")
    with pytest.raises(Misconfigured, match="ACLs"):
        scene.publisher.committed(Assignment(PARTITION, "me"))


def test_a_first_offset_that_may_not_be_asked_for_or_committed_is_said(scene: Scene) -> None:
    """Guard: the same question as for a transaction. Without it the partition would wait for ever for an ACL."""
    scene.offsets.committed.return_value = None
    denied = kafka_errors.TopicAuthorizationFailedError({"images"})
    scene.offsets.beginning_offsets.side_effect = denied
    with pytest.raises(Misconfigured, match="ACLs"):
        scene.publisher.committed(Assignment(PARTITION, "me"))
    scene.offsets.beginning_offsets.side_effect = lambda partitions, timeout_ms: dict.fromkeys(partitions, 7)
    scene.producer.send_offsets_to_transaction.side_effect = kafka_errors.GroupAuthorizationFailedError("group")
    with pytest.raises(Misconfigured, match="Read on the group"):
        scene.publisher.committed(Assignment(PARTITION, "me"))


def test_a_first_offset_that_is_not_committed_is_not_told_and_the_producer_is_replaced(scene: Scene) -> None:
    scene.offsets.committed.return_value = None
    scene.offsets.beginning_offsets.side_effect = lambda partitions, timeout_ms: dict.fromkeys(partitions, 7)
    scene.producer.commit_transaction.side_effect = kafka_errors.CommitFailedError()
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    assert len(scene.producers) == 2
    assert scene.publisher.committed(Assignment(PARTITION, "me")) == 7


def test_closing_after_a_failed_run_ends_its_transaction(scene: Scene) -> None:
    scene.producer.commit_transaction.side_effect = kafka_errors.KafkaTimeoutError("late")
    with pytest.raises(Unpublished):
        scene.publish()
    scene.calls.clear()
    scene.publisher.close()
    assert scene.calls == ["end", "init_transactions", "end"]
    scene.offsets.close.assert_called_once()


def test_closing_in_peace_takes_the_id_no_more(scene: Scene) -> None:
    scene.publish()
    scene.calls.clear()
    scene.publisher.close()
    assert scene.calls == ["end"]


def test_at_least_once_without_a_way_to_commit_is_a_bug() -> None:
    with pytest.raises(ValueError, match="the source's commit"):
        KafkaPublisher(
            "b:1", "g", "t", membership=lambda: Membership(1, "me"), output_topics=[], delivery="at_least_once"
        )
