"""From where to where topics reach, by offset and by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from workers.backends.kafka.client import Security, connect, end_consumer, mapped
from workers.backends.kafka.topics import first_since, partitions_of
from workers.types import Partition

_TIMEOUT_MS = 10_000


class Extent(NamedTuple):
    """The first offset that a partition still has, and the one behind its last; open transactions included."""

    begin: int
    end: int


def extents(servers: str, topics: Sequence[str], *, security: Security | None = None) -> dict[Partition, Extent]:
    """What every partition of these topics has now.

    Raises:
        Misconfigured: a topic does not exist.
        Unavailable: no broker answers.
    """
    with _asking(servers, security, topics, "asking for the ends of topics") as (consumer, places):
        begins = consumer.beginning_offsets(places, timeout_ms=_TIMEOUT_MS)
        ends = consumer.end_offsets(places, timeout_ms=_TIMEOUT_MS)
    return {Partition(*place): Extent(begins[place], ends[place]) for place in places}


def offsets_at(
    servers: str, topics: Sequence[str], time_ms: int, *, security: Security | None = None
) -> dict[Partition, int | None]:
    """Of each partition the first record of that time (ms since 1970) or a later one; None where there is none.

    Raises:
        Misconfigured, Unavailable: as for `extents`.
    """
    with _asking(servers, security, topics, "asking for offsets by time") as (consumer, places):
        return {Partition(*place): offset for place, offset in first_since(consumer, places, time_ms).items()}


@contextmanager
def _asking(
    servers: str, security: Security | None, topics: Sequence[str], doing: str
) -> Iterator[tuple[Any, list[TopicPartition]]]:
    """A client that fetches nothing and joins no group, and the partitions of these topics."""
    consumer = connect(
        KafkaConsumer,
        servers,
        security or {},
        timeout_s=10.0,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )
    try:
        with mapped(doing):
            yield consumer, partitions_of(consumer, topics)
    finally:
        end_consumer(consumer)
