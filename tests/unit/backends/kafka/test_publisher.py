"""The publish thread's protocol, step by step, on a client that only records its calls."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import KafkaProducer
from kafka import errors as kafka_errors

from workers.backends.kafka import publisher as kafka_publisher
from workers.backends.kafka.publisher import KafkaPublisher
from workers.backends.kafka.types import Delivery, OffsetReset
from workers.errors import Broken, Misconfigured, Unavailable, Unpublished
from workers.types import Assignment, Membership, Message, Partition, Transaction

PARTITION = Partition("images", 0)


class MockedPublisher:
    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        delivery: Delivery = "exactly_once",
        *,
        offset_reset: OffsetReset = "earliest",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.asking: dict[str, Any] = {}
        """Settings of the consumer that reads offsets."""
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
        found = limits or {"out": 1_000, "large": 5_000}
        monkeypatch.setattr(kafka_publisher, "max_message_bytes", lambda *_, **__: found)
        monkeypatch.setattr(kafka_publisher, "connect", self._connect)
        monkeypatch.setattr(kafka_publisher, "end_producer", lambda producer, within_s: self.calls.append("end"))
        self.publisher = KafkaPublisher(
            "broker:9092",
            "group",
            "worker-0",
            membership=self._membership,
            output_topics=["out", "large"],
            delivery=delivery,
            offset_reset=offset_reset,
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
            self.asking = settings
            return self.offsets
        if self.unreachable:
            self.unreachable -= 1
            raise Unavailable("kafka", "no broker answers")
        producer = Mock(settings=settings)
        producer.send.side_effect = self._send
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

    def _send(
        self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]], partition: int | None
    ) -> Any:
        assert (topic, key, headers, partition) == ("out", b"k", [], None)
        self.calls.append(f"send {value.decode()}")
        return Mock(get=self._acknowledged)

    def _acknowledged(self, timeout: float) -> None:
        self.calls.append("acknowledged")
        if self.refused is not None:
            raise self.refused


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> MockedPublisher:
    return MockedPublisher(monkeypatch)


def test_a_message_that_failed_is_never_left_out_of_a_commit(scene: MockedPublisher) -> None:
    scene.refused = kafka_errors.KafkaTimeoutError("expired")
    with pytest.raises(Unpublished) as failed:
        scene.publish()
    assert failed.value.cause == "timeout"
    scene.producer.send_offsets_to_transaction.assert_not_called()
    scene.producer.commit_transaction.assert_not_called()


def test_an_acl_that_forbids_to_publish_is_said_and_not_tried_for_ever(scene: MockedPublisher) -> None:
    scene.refused = kafka_errors.TopicAuthorizationFailedError("out")
    with pytest.raises(Misconfigured, match="grant Write"):
        scene.publish()
    scene.producer.commit_transaction.assert_not_called()


def test_a_producer_that_failed_is_ended_before_another_is_made_and_never_used_again(scene: MockedPublisher) -> None:
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


def test_recovering_waits_as_long_as_the_broker_is_away(scene: MockedPublisher) -> None:
    scene.unreachable = 50
    scene.publisher.recover()
    assert scene.now >= 1_000 + 50 * 0.5
    scene.publish()


def test_an_id_that_can_not_be_taken_now_leaves_no_half_made_producer(scene: MockedPublisher) -> None:
    scene.slow_to_take = 1
    scene.publisher.recover()
    assert scene.calls == ["end", "end", "init_transactions"]


def test_a_record_that_fits_is_not_made_too_large_by_company(scene: MockedPublisher) -> None:
    settings = scene.producer.settings
    assert settings["batch_size"] == 1_000
    assert settings["max_request_size"] == 5_000


def test_a_batch_is_no_larger_than_256_kib_however_much_a_topic_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MockedPublisher(monkeypatch, limits={"out": 1 << 20}).producer.settings["batch_size"] == 262_144


def test_a_message_is_given_up_before_the_broker_aborts_its_transaction(scene: MockedPublisher) -> None:
    settings = scene.producer.settings
    assert settings["request_timeout_ms"] == 6_000
    assert settings["delivery_timeout_ms"] == settings["max_block_ms"] == 8_000
    assert settings["transaction_timeout_ms"] == 10_000


def test_the_clients_create_no_topic_and_the_client_for_offsets_commits_nothing_itself(scene: MockedPublisher) -> None:
    """Guard: read_committed; otherwise the broker returns an offset that a pending transaction may still change."""
    assert scene.asking["isolation_level"] == "read_committed"
    assert scene.asking["enable_auto_commit"] is False
    assert scene.asking["request_timeout_ms"] == 6_000
    assert [made["allow_auto_create_topics"] for made in (scene.producer.settings, scene.asking)] == [False, False]


def test_a_commit_that_does_not_return_while_brokers_answer_others_is_stuck(scene: MockedPublisher) -> None:
    scene.publisher._clock._now = lambda: scene.now
    told: list[str | None] = []

    def never() -> None:
        for seconds in (2, 6):
            scene.now += seconds
            told.append(scene.publisher.stuck())

    scene.producer.commit_transaction.side_effect = never
    scene.publish()
    assert told == [None, "the commit of a transaction has not returned for 8 s, while the brokers answer others"]
    assert scene.publisher.stuck() is None


def pending_for_ever(scene: MockedPublisher, assignment: Assignment) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("unstable")
    for _ in range(12):
        assert scene.publisher.committed(assignment) is None
        scene.now += 2


def test_a_transaction_that_stays_pending_longer_than_any_may_is_a_lost_marker(
    scene: MockedPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("unstable")
    assignment = Assignment(PARTITION, "me")
    for _ in range(10):
        assert scene.publisher.committed(assignment) is None
        assert not scene.publisher.lost
        scene.now += 2
    assert scene.publisher.committed(assignment) is None
    assert scene.publisher.lost[assignment] == (
        "transaction marker lost: the broker has counted a transaction on images:0 as pending for 22 s,"
        " longer than any may last"
    )
    assert "transaction marker lost" in caplog.text


def test_a_lost_marker_is_looked_for_and_reported_at_a_slow_rate(
    scene: MockedPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Guard: every question costs the other partitions two seconds."""
    assignment = Assignment(PARTITION, "me")
    pending_for_ever(scene, assignment)
    asked, until = scene.offsets.committed.call_count, scene.now + 300
    while scene.now < until:
        assert scene.publisher.committed(assignment) is None
    assert 28 <= scene.offsets.committed.call_count - asked <= 31
    assert 5 <= sum("marker lost" in record.message for record in caplog.records) <= 7


def test_a_lost_marker_that_turns_up_is_forgotten(scene: MockedPublisher) -> None:
    assignment = Assignment(PARTITION, "me")
    pending_for_ever(scene, assignment)
    scene.offsets.committed.side_effect = None
    scene.offsets.committed.return_value = 5
    scene.now += 10
    assert scene.publisher.committed(assignment) == 5
    assert not scene.publisher.lost


def test_a_marker_is_not_called_lost_while_no_broker_answers(scene: MockedPublisher) -> None:
    assignment = Assignment(PARTITION, "me")
    pending_for_ever(scene, assignment)
    assert scene.publisher.lost
    scene.answers = False
    scene.now += 10
    assert scene.publisher.committed(assignment) is None
    assert not scene.publisher.lost


def test_a_lost_marker_is_known_to_the_partitions_next_assignment_and_to_no_other(scene: MockedPublisher) -> None:
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


def test_recovery_ends_soon_after_an_interrupt_and_closing_leaves_nothing_open(scene: MockedPublisher) -> None:
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


def test_time_without_a_broker_loses_no_marker(scene: MockedPublisher) -> None:
    scene.offsets.committed.side_effect = kafka_errors.KafkaTimeoutError("away")
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    scene.answers = False
    for _ in range(100):
        assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
        scene.now += 2
    scene.answers = True
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    assert not scene.publisher.lost


def test_a_group_that_may_not_be_read_is_said(scene: MockedPublisher) -> None:
    scene.offsets.committed.side_effect = kafka_errors.GroupAuthorizationFailedError("group")
    with pytest.raises(Misconfigured, match="ACLs"):
        scene.publisher.committed(Assignment(PARTITION, "me"))


def test_a_first_offset_that_may_not_be_asked_for_or_committed_is_said(scene: MockedPublisher) -> None:
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


def test_a_first_offset_without_a_commit_is_not_reported_and_the_producer_is_replaced(scene: MockedPublisher) -> None:
    scene.offsets.committed.return_value = None
    scene.offsets.beginning_offsets.side_effect = lambda partitions, timeout_ms: dict.fromkeys(partitions, 7)
    scene.producer.commit_transaction.side_effect = kafka_errors.CommitFailedError()
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    assert len(scene.producers) == 2
    assert scene.publisher.committed(Assignment(PARTITION, "me")) == 7


def first_offsets(scene: MockedPublisher) -> None:
    """The group has no offset; the partition begins at 7 and ends at 90."""
    scene.offsets.committed.return_value = None
    scene.offsets.beginning_offsets.side_effect = lambda partitions, timeout_ms: dict.fromkeys(partitions, 7)
    scene.offsets.end_offsets.side_effect = lambda partitions, timeout_ms: dict.fromkeys(partitions, 90)


def test_a_group_that_begins_at_the_end_has_its_first_offset_there(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = MockedPublisher(monkeypatch, offset_reset="latest")
    first_offsets(scene)
    assert scene.publisher.committed(Assignment(PARTITION, "me")) == 90


def test_no_first_offset_is_committed_by_a_member_that_the_group_left_meanwhile(scene: MockedPublisher) -> None:
    first_offsets(scene)

    def rebalanced(partitions: Sequence[Any], timeout_ms: int) -> dict[Any, int]:
        scene.member = Membership(4, "another")
        return dict.fromkeys(partitions, 7)

    scene.offsets.beginning_offsets.side_effect = rebalanced
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    scene.producer.send_offsets_to_transaction.assert_not_called()


def test_a_first_offset_that_is_unavailable_is_requested_again_within_two_seconds(scene: MockedPublisher) -> None:
    """Guard: the publish thread asks for one partition after the other."""
    first_offsets(scene)
    scene.offsets.beginning_offsets.side_effect = kafka_errors.KafkaTimeoutError("no leader")
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    assert scene.calls == ["membership"]
    for question in (scene.offsets.committed, scene.offsets.beginning_offsets):
        assert question.call_args.kwargs == {"timeout_ms": 2_000}


def test_an_offset_after_the_end_of_its_assignment_is_not_reported(scene: MockedPublisher) -> None:
    assignment = Assignment(PARTITION, "me")

    def meanwhile(*_: Any, **__: Any) -> int:
        assignment.end()
        return 5

    scene.offsets.committed.side_effect = meanwhile
    assert scene.publisher.committed(assignment) is None


def test_a_first_offset_that_is_refused_to_a_fenced_worker_counts_as_fenced(scene: MockedPublisher) -> None:
    """Guard: two workers with one id take it from each other for ever, at the beginning as well."""
    first_offsets(scene)
    scene.producer.commit_transaction.side_effect = kafka_errors.ProducerFencedError("another took it")
    assert scene.publisher.committed(Assignment(PARTITION, "me")) is None
    scene.producer.commit_transaction.side_effect = kafka_errors.ProducerFencedError("another took it")
    with pytest.raises(Broken, match="'worker-0'; give every worker its own"):
        scene.publish()


@pytest.mark.parametrize(
    ("delivery", "error", "calls"),
    [
        ("at_least_once", kafka_errors.KafkaTimeoutError("late"), ["end"]),
        ("exactly_once", kafka_errors.KafkaTimeoutError("late"), ["end", "init_transactions", "end"]),
        # a fencing ended our transaction, and to take the id once more would fence the other process
        ("exactly_once", kafka_errors.ProducerFencedError("another took it"), ["end"]),
    ],
)
def test_closing_after_a_failed_run_ends_its_transaction_if_it_has_one_and_the_id(
    monkeypatch: pytest.MonkeyPatch, delivery: Delivery, error: Exception, calls: list[str]
) -> None:
    scene = MockedPublisher(monkeypatch, delivery)
    scene.refused = error
    with pytest.raises(Unpublished):
        scene.publish()
    scene.calls.clear()
    scene.publisher.close()
    assert scene.calls == calls


def test_closing_ends_with_a_line_where_a_failed_transaction_can_not_be_ended(
    scene: MockedPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    scene.producer.commit_transaction.side_effect = kafka_errors.KafkaTimeoutError("late")
    with pytest.raises(Unpublished):
        scene.publish()
    scene.unreachable = 1
    scene.publisher.close()
    assert "stays open until it times out" in caplog.text
    scene.offsets.close.assert_called_once()


def test_at_least_once_without_a_way_to_commit_is_a_bug() -> None:
    with pytest.raises(ValueError, match="the source's commit"):
        KafkaPublisher(
            "b:1", "g", "t", membership=lambda: Membership(1, "me"), output_topics=[], delivery="at_least_once"
        )
