"""Kafka's own client in Java reads where a dead letter came from, as Spring for Apache Kafka encodes it."""

import subprocess
from pathlib import Path

from confluent_kafka import Producer

from schemas.dead_letter import Failure, dead_letter_headers
from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.support.java import java_program
from workers.backends.kafka import ensure_topics

READER = Path(__file__).parents[1] / "support" / "ReadAsSpring.java"
FAILURE = Failure(index=0, stage="decode", reason="broken-image", detail="zu groß")
ORIGINS = (
    ("images", 0, 0, 0, False),
    ("images", 255, 17, 1_795_000_000_000, True),
    ("other.images", 2**31 - 1, 2**63 - 1, -1, False),
)
"""Topic, partition, offset and timestamp of the original, and whether that is the broker's: small, usual, extreme."""


def test_java_reads_where_a_dead_letter_came_from(kafka: ApacheKafka, topic_name: str) -> None:
    ensure_topics(kafka.servers, {topic_name: (1, {})})
    producer = Producer({"bootstrap.servers": kafka.servers})
    for topic, partition, offset, timestamp_ms, append_time in ORIGINS:
        headers = dead_letter_headers(
            topic=topic,
            partition=partition,
            offset=offset,
            timestamp_ms=timestamp_ms,
            failures=[FAILURE],
            attempts=1,
            worker="1",
            models={},
            append_time=append_time,
        )
        producer.produce(topic_name, b"{}", headers=list(headers))
    assert producer.flush(60) == 0
    command = [*java_program(READER), kafka.servers, topic_name, str(len(ORIGINS))]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{topic} {partition} {offset} {timestamp_ms} {'LOG_APPEND_TIME' if append_time else 'CREATE_TIME'}"
        " decode: broken-image: zu groß"
        for topic, partition, offset, timestamp_ms, append_time in ORIGINS
    ]
