"""The poll thread's reaction to each error of its client, on a client under the test's control."""

import asyncio
import time
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from tests.support.measured import measuring
from workers import metrics
from workers.backends.kafka import membership
from workers.backends.kafka import source as kafka_source
from workers.backends.kafka.source import KafkaRecordSource
from workers.errors import Broken, Misconfigured
from workers.types import Assignment, Partition, ReadRecord, Unreadable

HERE, THERE = TopicPartition("images", 0), TopicPartition("images", 1)


@pytest.fixture
def consumer() -> Any:
    made = Mock()
    made.topics.return_value = {"images"}
    made.poll.return_value = {}
    made.group_metadata.return_value = member("me")
    made.assignment.return_value = {HERE, THERE}
    made._coordinator = MagicMock(rejoining=False)
    return made


@pytest.fixture
def coordinator(consumer: Any) -> Any:
    """The client's part that keeps it in the group."""
    return consumer._coordinator


@pytest.fixture
def source(consumer: Any, monkeypatch: pytest.MonkeyPatch) -> KafkaRecordSource:
    monkeypatch.setattr(kafka_source, "connect", lambda *_, **__: consumer)
    return KafkaRecordSource("broker:9092", "group", ["images"])


def member(member_id: str) -> Any:
    return Mock(member_id=member_id, generation_id=1, state=MemberState.STABLE)


def opened(source: KafkaRecordSource) -> list[Assignment]:
    source._member.take([HERE, THERE])
    assignments = list(source.poll(0).started)
    for assignment in assignments:
        source.start(assignment, 5)
    return assignments


def test_a_broker_that_is_away_at_the_first_poll_is_polled_again(source: KafkaRecordSource, consumer: Any) -> None:
    """Guard: the first poll asks for the topics, and that too may fail: the worker would end."""
    consumer.topics.side_effect = kafka_errors.KafkaConnectionError("111 ECONNREFUSED")
    assert source.poll(0.01).records == ()
    consumer.topics.side_effect = None
    assert source.poll(0.01).records == ()
    consumer.poll.assert_called_once()


def test_a_group_without_a_leading_broker_is_reported_once_and_once_more_when_it_has_one(
    source: KafkaRecordSource, coordinator: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", membership.__name__)
    coordinator.coordinator_id = None
    source.poll(0)
    assert caplog.messages == []  # as while the coordinator moves
    monkeypatch.setattr(membership, "TELL_S", 0.0)
    source.poll(0)
    source.poll(0)
    coordinator.coordinator_id = "coordinator-1"
    source.poll(0)
    source.poll(0)
    assert caplog.messages == [
        "no coordinator of the group group answers: nothing is read until one does",
        "the group group has a coordinator again",
    ]


def test_a_source_that_is_first_polled_long_after_it_was_made_says_nothing_of_a_leader(
    source: KafkaRecordSource, coordinator: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guard: models can take a minute to warm up, and no broker was asked before they are warm."""
    coordinator.coordinator_id = None
    now = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: now)
    source.poll(0)
    assert caplog.messages == []


def test_a_poll_is_short_until_the_group_is_joined_for_the_first_time(source: KafkaRecordSource, consumer: Any) -> None:
    """Guard: a poll does not return for having become a member, and until it does the worker is not ready."""
    consumer.group_metadata.return_value = Mock(member_id="me", generation_id=-1, state=MemberState.REBALANCING)
    source.poll(5)
    assert consumer.poll.call_args.kwargs["timeout_ms"] == 20
    consumer.group_metadata.return_value = member("me")
    source.poll(5)
    consumer.group_metadata.return_value = Mock(member_id="me", generation_id=-1, state=MemberState.REBALANCING)
    source.poll(5)
    assert consumer.poll.call_args.kwargs["timeout_ms"] > 2_500


def test_a_group_that_no_broker_leads_is_counted_again_and_again(
    consumer: Any, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's polls raise nothing then: without a count no alert could tell that Kafka is away."""
    monkeypatch.setattr(kafka_source, "connect", lambda *_, **__: consumer)
    with measuring(metrics.RETRIES) as measured:
        source = KafkaRecordSource("broker:9092", "group", ["images"])
        coordinator.coordinator_id = None
        source.poll(0)
        assert measured.by("dependency", metrics.RETRIES) == {"kafka": 0}
        monkeypatch.setattr(membership, "TELL_S", 0.0)
        source.poll(0)
        source.poll(0)
        assert measured.by("dependency", metrics.RETRIES) == {"kafka": 2}
        coordinator.coordinator_id = "coordinator-1"
        source.poll(0)
        assert measured.by("dependency", metrics.RETRIES) == {"kafka": 2}


@pytest.mark.parametrize(("delay_s", "slept"), [(0.4, [0.4]), (0, [])])
def test_a_coordinator_that_can_not_be_reached_is_not_looked_up_at_once(
    consumer: Any, coordinator: Any, monkeypatch: pytest.MonkeyPatch, delay_s: float, slept: list[float]
) -> None:
    """Guard: otherwise the client looks for a dead node hundreds of times a second, until another replaces it."""
    coordinator._send_group_coordinator_request = AsyncMock(return_value="coordinator-2")
    connection_delay = consumer._client.connection_delay
    coordinator._manager._net.sleep = sleep = AsyncMock()
    connection_delay.return_value = delay_s
    monkeypatch.setattr(kafka_source, "connect", lambda *_, **__: consumer)
    KafkaRecordSource("broker:9092", "group", ["images"])
    assert asyncio.run(coordinator._send_group_coordinator_request()) == "coordinator-2"
    connection_delay.assert_called_once_with("coordinator-2")
    assert [call.args[0] for call in sleep.await_args_list] == slept


def test_a_join_that_has_begun_is_requested_until_it_is_complete(source: KafkaRecordSource, coordinator: Any) -> None:
    """Guard: kafka-python may forget it, sends no heartbeats then, and does not hear that the group expels us."""
    source.poll(0)
    coordinator.request_rejoin.assert_not_called()
    coordinator.rejoining = True
    source.poll(0)
    coordinator.request_rejoin.assert_called_once_with()


@pytest.mark.parametrize(("due_in_s", "stable", "waits_ms"), [(0.3, True, 50), (0, True, 0), (0, False, 50)])
def test_a_member_with_an_unanswered_heartbeat_waits_outside_the_client(
    source: KafkaRecordSource, consumer: Any, coordinator: Any, due_in_s: float, stable: bool, waits_ms: int
) -> None:
    """Guard: inside it would go round and round, and leave 4 KB with each. A join, however, is waited for inside."""
    coordinator.stable.return_value = stable
    coordinator.time_to_next_poll.return_value = due_in_s
    began = time.monotonic()
    source.poll(0.05)
    consumer.poll.assert_called_once_with(timeout_ms=waits_ms)
    assert time.monotonic() - began >= (0 if waits_ms else 0.05)


def test_a_heartbeat_that_is_just_being_sent_is_waited_for_no_longer_than_that(
    source: KafkaRecordSource, consumer: Any, coordinator: Any
) -> None:
    """Guard: each heartbeat is due for a moment, and a record that comes then would wait for the whole poll."""
    coordinator.time_to_next_poll.side_effect = [0, 0.5]
    source.poll(5)
    assert consumer.poll.call_args.kwargs["timeout_ms"] > 2_500


def test_a_missing_topic_is_named_even_if_a_first_answer_names_no_topic(
    source: KafkaRecordSource, consumer: Any
) -> None:
    consumer.topics.side_effect = [kafka_errors.UnknownTopicOrPartitionError(), {"others"}]
    assert source.poll(0).records == ()
    with pytest.raises(Misconfigured, match="'images' does not exist; create it first"):
        source.poll(0)


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.KafkaConnectionError("reset"),
        kafka_errors.NotLeaderForPartitionError(),
        kafka_errors.UnknownTopicOrPartitionError("images"),
        kafka_errors.UnknownError("Unexpected error while fetching data"),
        kafka_errors.CorruptRecordError("images:0@7"),
        kafka_errors.GroupMaxSizeReachedError("group"),
        kafka_errors.InvalidReceiveError("2 GB"),
        kafka_errors.UnknownBrokerIdError("3"),
        kafka_errors.QuotaViolationError("slower"),
    ],
)
def test_a_brokers_mistake_ends_no_worker(
    source: KafkaRecordSource, consumer: Any, error: kafka_errors.KafkaError
) -> None:
    """Guard: an error of the broker for one partition, which the client does not count as temporary."""
    consumer.poll.side_effect = error
    assert source.poll(0.01).records == ()
    consumer.poll.side_effect = None
    consumer.poll.return_value = {HERE: [ReadRecord("images", 0, 5, 0, None, b"x", ())]}
    opened(source)
    assert [record.offset for record in source.poll(0.01).records] == [5]


@pytest.mark.parametrize(
    ("error", "ours", "says"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"images"}), Misconfigured, "ACLs"),
        (kafka_errors.GroupAuthorizationFailedError("group"), Misconfigured, "ACLs"),
        (kafka_errors.InconsistentGroupProtocolError("range"), Misconfigured, "refuses reading images"),
        (kafka_errors.LogTruncationError({HERE: None}), Broken, "images:0 ends before what was read"),
        (kafka_errors.NoOffsetForPartitionError({HERE}), Broken, "reading images"),
        (kafka_errors.IllegalStateError("closed"), Broken, "reading images"),
    ],
)
def test_an_error_that_no_poll_can_repair_ends_the_poll_with_a_sentence(
    source: KafkaRecordSource, consumer: Any, error: Exception, ours: type[Exception], says: str
) -> None:
    consumer.poll.side_effect = error
    with pytest.raises(ours, match=says):
        source.poll(0.01)


def test_an_offset_that_only_one_answer_calls_deleted_is_polled_again(
    source: KafkaRecordSource, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.poll.side_effect = kafka_errors.OffsetOutOfRangeError({HERE: 7})
    consumer.beginning_offsets.return_value, consumer.end_offsets.return_value = {HERE: 7}, {HERE: 7}
    assert source.poll(0.01).records == ()
    assert "offset 7 of images:0 is out of range, says the broker, and that it has 7 to 7" in caplog.text
    consumer.end_offsets.side_effect = kafka_errors.KafkaTimeoutError("late")
    assert source.poll(0.01).records == ()
    consumer.poll.side_effect = None
    consumer.poll.return_value = {HERE: [ReadRecord("images", 0, 7, 0, None, b"x", ())]}
    opened(source)
    assert [record.offset for record in source.poll(0.01).records] == [7]


def test_a_fault_that_lasts_is_said_once_in_a_while(
    source: KafkaRecordSource, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.poll.side_effect = kafka_errors.UnknownError("the same")
    for _ in range(50):
        source.poll(0)
    assert len([record for record in caplog.records if "the same" in record.message]) == 1


def test_partitions_lost_in_a_join_without_callbacks_are_left_alone(source: KafkaRecordSource, consumer: Any) -> None:
    """Guard: the check of the assignment. kafka-python refuses to pause or seek an unassigned partition."""
    here, there = opened(source)
    consumer.group_metadata.return_value = member("me again")
    consumer.assignment.return_value = {THERE}

    def only_assigned(*partitions: TopicPartition) -> None:
        if HERE in partitions:
            raise KeyError(HERE)

    consumer.pause.side_effect = only_assigned
    [again] = source.poll(0).started
    assert (again.partition, again.member_id) == (Partition("images", 1), "me again")
    assert not here.current
    assert not there.current


def test_unreadable_records_that_come_together_are_reported_once(
    source: KafkaRecordSource, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened(source)
    why = Unreadable("too-many-headers", "2000 headers")
    odd = [ReadRecord("images", 0, offset, 0, None, b"x", (), 1, why) for offset in (5, 6, 7)]
    consumer.poll.return_value = {HERE: odd}
    assert [record.unreadable for record in source.poll(0.01).records] == [why] * 3
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "images:0:5, index 0 can't be read and becomes a dead letter (too-many-headers: 2000 headers), "
        "and 2 more like it"
    )
