"""How far a consumer group is behind, asked of a real broker."""

from __future__ import annotations

from collections.abc import Sequence

from kafka import KafkaConsumer

from workers.backends.kafka.client import Security, connect, end_consumer, mapped
from workers.backends.kafka.topics import partitions_of
from workers.types import Partition

_TIMEOUT_MS = 10_000


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
            partitions = partitions_of(consumer, topics)
            ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
            offsets = {partition: consumer.committed(partition, timeout_ms=5_000) for partition in partitions}
    finally:
        end_consumer(consumer)
    return {
        Partition(*partition): None if (offset := offsets[partition]) is None else max(0, ends[partition] - offset)
        for partition in partitions
    }
