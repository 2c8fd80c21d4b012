"""Topics: whether they exist, making them, and what they take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import TopicPartition

from workers.backends.kafka_client import Security, admin, connect, end_consumer, mapped, no_such_topic
from workers.types import Partition

logger = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = "max.message.bytes"
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
_COMPRESSION_TYPE = "compression.type"
_AS_IT_COMES = "producer"


def ensure_topics(
    servers: str,
    topics: Mapping[str, tuple[int, Mapping[str, str]]],
    *,
    replication: int = -1,
    security: Security | None = None,
) -> None:
    """Make the topics that do not exist yet, and wait until they can be used. Those that do are left as they are.

    Args:
        topics: for each name its partitions and its settings by Kafka's names.
        replication: copies of each partition; -1 for the broker's default.
    """
    with admin(servers, security or {}) as client:
        known = set(client.list_topics())
        missing = {
            name: {"num_partitions": partitions, "replication_factor": replication, "configs": dict(configs)}
            for name, (partitions, configs) in topics.items()
            if name not in known
        }
        if missing:
            try:
                client.create_topics(missing, wait_for_metadata=True)
            except kafka_errors.TopicAlreadyExistsError:
                client.wait_for_topics(list(missing))


def topic_exists(servers: str, topic: str, *, security: Security | None = None) -> bool:
    with admin(servers, security or {}) as client:
        return topic in client.list_topics()


def require_topics(servers: str, topics: Sequence[str], *, security: Security | None = None) -> None:
    """Ask the cluster whether these topics exist: a producer would look for a missing one until its time is over.

    Raises:
        Misconfigured: some do not; all of them are named.
    """
    with admin(servers, security or {}) as client:
        known = set(client.list_topics())
    if missing := [topic for topic in dict.fromkeys(topics) if topic not in known]:
        raise no_such_topic(*missing)


def max_message_bytes(
    servers: str, topics: Sequence[str], *, security: Security | None = None, connect_timeout_s: float = 30.0
) -> dict[str, int]:
    """The largest record batch that each topic takes.

    Raises:
        Misconfigured: one of them does not exist.
    """
    with admin(servers, security or {}, timeout_s=connect_timeout_s) as client:
        known = set(client.list_topics())
        if missing := [topic for topic in topics if topic not in known]:
            raise no_such_topic(*missing)
        return {topic: _max_message_bytes(client, topic) for topic in topics}


def recompressed(servers: str, topics: Sequence[str], *, security: Security | None = None) -> dict[str, str]:
    """The topics among these whose batches the broker opens and compresses itself, and with what.

    Topics whose settings we may not read are left out.
    """
    with admin(servers, security or {}) as client:
        found = {topic: _setting(client, topic, _COMPRESSION_TYPE) for topic in topics}
    return {topic: codec for topic, codec in found.items() if codec is not None and codec != _AS_IT_COMES}


def _max_message_bytes(client: Any, topic: str) -> int:
    value = _setting(client, topic, _MAX_MESSAGE_BYTES)
    if value is None:
        logger.warning("%s of %r can't be read; taking Kafka's default", _MAX_MESSAGE_BYTES, topic)
        return _DEFAULT_MAX_MESSAGE_BYTES
    return int(value)


def _setting(client: Any, topic: str, name: str) -> str | None:
    """A topic's setting by Kafka's name; None where we may not read it."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})
    try:
        return str(client.describe_configs([resource], config_filter="all")["topic"][topic][name]["value"])
    except (kafka_errors.AuthorizationError, KeyError):
        return None


def numbers(consumer: Any, topic: str) -> list[int]:
    """The numbers of a topic's partitions.

    Raises:
        Misconfigured: no such topic.
    """
    known = consumer.partitions_for_topic(topic)
    if not known:
        raise no_such_topic(topic)
    return sorted(known)


def lag(
    servers: str, group: str, topics: Sequence[str], *, security: Security | None = None
) -> dict[Partition, int | None]:
    """How many offsets each partition has beyond the group's committed one; None where the group has none.

    For people to read: markers count as well, and what is in an open transaction does not.
    """
    consumer = connect(
        KafkaConsumer,
        servers,
        security or {},
        timeout_s=10.0,
        group_id=group,
        isolation_level="read_committed",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    try:
        with mapped(f"asking for the lag of {group!r}"):
            partitions = [TopicPartition(topic, number) for topic in topics for number in numbers(consumer, topic)]
            ends = consumer.end_offsets(partitions, timeout_ms=10_000)
            offsets = {partition: consumer.committed(partition, timeout_ms=5_000) for partition in partitions}
    finally:
        end_consumer(consumer)
    return {
        Partition(*partition): None if (offset := offsets[partition]) is None else max(0, ends[partition] - offset)
        for partition in partitions
    }
