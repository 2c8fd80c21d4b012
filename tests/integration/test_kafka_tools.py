"""Sending from outside, reading as an outsider, and asking about topics, on Apache Kafka."""

import socket

import pytest
from kafka import KafkaProducer

from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.support.broker import lag
from workers.backends.kafka import KafkaEmitter, describe_topics, ensure_topics, tail
from workers.backends.kafka.client import answers
from workers.errors import Misconfigured, Unavailable
from workers.types import Message


@pytest.fixture
def topic(kafka: ApacheKafka, topic_name: str) -> str:
    ensure_topics(kafka.servers, {topic_name: (2, {"max.message.bytes": "5000"})})
    return topic_name


def test_a_topic_exists_once_it_was_made_and_making_it_again_changes_nothing(
    kafka: ApacheKafka, topic_name: str
) -> None:
    assert not describe_topics(kafka.servers, {topic_name: []})
    ensure_topics(kafka.servers, {topic_name: (3, {})})
    ensure_topics(kafka.servers, {topic_name: (1, {})})
    assert len(lag(kafka.servers, "no-group", [topic_name])) == 3


def test_emitted_messages_are_all_there_in_order_for_each_key(kafka: ApacheKafka, topic: str) -> None:
    told: list[int] = []
    messages = [Message(topic, b"k%d" % (n % 7), b"%d" % n, (("n", b"%d" % n),)) for n in range(2_500)]
    with KafkaEmitter(kafka.servers) as emitter:
        assert emitter.emit(messages, told.append) == 2_500
    with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
        read = list(reading)
    for key in {message.key for message in messages}:
        assert [r.value for r in read if r.key == key] == [m.value for m in messages if m.key == key]
    assert len(read) == 2_500
    assert read[0].headers == (("n", read[0].value),)
    assert told == sorted(told)
    assert told[-1] == 2_500


def test_a_message_goes_to_the_partition_that_it_names(kafka: ApacheKafka, topic: str) -> None:
    with KafkaEmitter(kafka.servers) as emitter:
        emitter.emit([Message(topic, b"key", b"value", (), partition) for partition in (0, 1, 1)])
    with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
        assert sorted(read.partition for read in reading) == [0, 1, 1]


def test_a_message_that_the_topic_refuses_is_said(kafka: ApacheKafka, topic: str) -> None:
    with KafkaEmitter(kafka.servers) as emitter:
        emitter.send(topic, b"key", b"v" * 6_000)
        with pytest.raises(Unavailable, match="MessageSizeTooLarge"):
            emitter.flush()


def test_emitting_to_a_topic_that_does_not_exist_is_said(kafka: ApacheKafka, topic_name: str) -> None:
    with (
        KafkaEmitter(kafka.servers, timeout_s=2) as emitter,
        pytest.raises((Unavailable, Misconfigured), match=topic_name),
    ):
        emitter.emit([Message(topic_name, b"key", b"value", ())])


def test_a_tail_from_the_end_shows_only_later_outcomes(kafka: ApacheKafka, topic: str) -> None:
    with KafkaEmitter(kafka.servers) as emitter, tail(kafka.servers, [topic]) as reading:
        emitter.emit([Message(topic, b"key", b"after", ())])
        assert [next(iter(reading)).value] == [b"after"]


def test_reading_to_the_end_passes_markers_and_aborted_records(kafka: ApacheKafka, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=topic)
    producer.init_transactions()
    for value, end in ((b"seen", producer.commit_transaction), (b"aborted", producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(topic, value, partition=0).get(10)
        end()
    producer.close()
    with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
        assert [record.value for record in reading] == [b"seen"]


def test_positions_end_where_reading_ends_though_more_was_fetched(kafka: ApacheKafka, topic: str) -> None:
    messages = [Message(topic, b"key", b"%d" % n, ()) for n in range(10)]
    with KafkaEmitter(kafka.servers) as emitter:
        emitter.emit(messages)
        with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
            emitter.emit(messages)
            assert len(list(reading)) == 10
            assert sum(reading.positions().values()) == 10


def test_reading_a_topic_that_does_not_exist_is_said(kafka: ApacheKafka, topic_name: str) -> None:
    with pytest.raises(Misconfigured, match=topic_name):
        tail(kafka.servers, [topic_name])


def test_a_cluster_answers_although_one_of_its_nodes_hangs(kafka: ApacheKafka) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        hanging = f"127.0.0.1:{hangs.getsockname()[1]}"
        assert not answers(hanging, {}, timeout_s=0.5)
        assert answers(f"{hanging},{kafka.servers}", {}, timeout_s=1)
