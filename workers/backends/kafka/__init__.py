"""Apache Kafka by kafka-python: what other packages import of the Kafka modules."""

from workers.backends.kafka.emitter import KafkaEmitter
from workers.backends.kafka.publisher import KafkaPublisher
from workers.backends.kafka.reader import Extent, Tail, between, extents, first_times, offsets_at, tail
from workers.backends.kafka.source import KafkaRecordSource
from workers.backends.kafka.topics import (
    GroupState,
    GroupWatch,
    Reach,
    TopicState,
    brokers,
    describe_topics,
    ensure_topics,
    group_watch,
    max_message_bytes,
    require_topics,
)

__all__ = [
    "Extent",
    "GroupState",
    "GroupWatch",
    "KafkaEmitter",
    "KafkaPublisher",
    "KafkaRecordSource",
    "Reach",
    "Tail",
    "TopicState",
    "between",
    "brokers",
    "describe_topics",
    "ensure_topics",
    "extents",
    "first_times",
    "group_watch",
    "max_message_bytes",
    "offsets_at",
    "require_topics",
    "tail",
]
