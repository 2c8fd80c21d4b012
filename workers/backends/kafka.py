"""Apache Kafka by kafka-python: what other packages import of the Kafka modules."""

from workers.backends.kafka_emitter import KafkaEmitter
from workers.backends.kafka_extents import Extent, committed, extents, offsets_at
from workers.backends.kafka_publisher import KafkaPublisher
from workers.backends.kafka_reader import Tail, between, read_range, tail
from workers.backends.kafka_source import KafkaRecordSource
from workers.backends.kafka_topics import (
    TopicState,
    brokers,
    describe_topics,
    ensure_topics,
    lag,
    max_message_bytes,
    require_topics,
    topic_exists,
)
from workers.backends.kafka_types import ReadRecord
from workers.types import Membership

__all__ = [
    "Extent",
    "KafkaEmitter",
    "KafkaPublisher",
    "KafkaRecordSource",
    "Membership",
    "ReadRecord",
    "Tail",
    "TopicState",
    "between",
    "brokers",
    "committed",
    "describe_topics",
    "ensure_topics",
    "extents",
    "lag",
    "max_message_bytes",
    "offsets_at",
    "read_range",
    "require_topics",
    "tail",
    "topic_exists",
]
