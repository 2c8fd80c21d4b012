"""Reads topics and their ends: committed records only, in no group."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition

from workers.backends.kafka.client import FETCH_ANSWER_BYTES, Security, connect, end_consumer, mapped
from workers.backends.kafka.fetch import BATCH_BYTES, BoundedReading
from workers.backends.kafka.topics import first_since, numbers, partitions_of
from workers.backends.kafka.types import Isolation
from workers.types import Partition, ReadRecord

logger = logging.getLogger(__name__)

_CONNECT_S = 10.0
"""Time limit of reaching a broker."""

_POLL_S = 0.2

_TIMEOUT_MS = 10_000

_ONE_BATCH_BYTES = 64 << 10
"""Bytes of a fetch for a partition's first record. A larger batch still comes whole."""


class Tail:
    """Reads partitions from given positions on; made by `tail` and `between`.

    Iterating ends at the set ends, or never; `poll` takes the records that are there. Use a `with`, or `close` it.
    """

    def __init__(self, consumer: Any, ends: dict[TopicPartition, int] | None, *, unreadable: bool = False) -> None:
        self._consumer = consumer
        self._unreadable = unreadable
        self._reading = BoundedReading(consumer, batch_bytes=BATCH_BYTES, poll_bytes=BATCH_BYTES)
        self._ends = ends

    def poll(self, timeout_s: float) -> list[ReadRecord]:
        """Records that arrived, waiting at most `timeout_s` for the first.

        Each partition's records come in order. Unreadable ones are skipped with a warning, unless wanted. Raises
        Unavailable, Misconfigured: see `workers.backends.kafka.client.mapped`.
        """
        self._reading.begin()
        with mapped("reading"):
            batches: dict[TopicPartition, list[ReadRecord]] = self._consumer.poll(timeout_ms=timeout_s * 1000)
            self._pause_what_is_read()
        return [
            read
            for partition, batch in batches.items()
            for read in batch
            if (self._ends is None or read.offset < self._ends[partition]) and (self._unreadable or _readable(read))
        ]

    def _pause_what_is_read(self) -> None:
        """Pause partitions at their end, so that nothing behind it is fetched."""
        ends = self._ends or {}
        self._consumer.pause(*(place for place, end in ends.items() if self._consumer.position(place) >= end))

    def __iter__(self) -> Iterator[ReadRecord]:
        while not self.at_end():
            yield from self.poll(_POLL_S)

    def close(self) -> None:
        end_consumer(self._consumer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def positions(self) -> dict[Partition, int]:
        """The next offset of each partition, behind markers and aborted records too; at most its set end.

        The client may have fetched more than that, which `poll` does not give.
        """
        ends = self._ends or {}
        with mapped("asking for positions"):
            found = {place: self._consumer.position(place) for place in self._consumer.assignment()}
        return {Partition(*place): min(offset, ends.get(place, offset)) for place, offset in found.items()}

    def numbers(self, topic: str) -> list[int]:
        """The numbers of the topic's partitions, including later ones.

        Raises Misconfigured: it does not exist any more.
        """
        with mapped(f"asking for the partitions of {topic}"):
            return numbers(self._consumer, topic)

    def left(self) -> dict[Partition, int]:
        """Offsets left up to the set ends, by partition; empty without ends."""
        positions = self.positions()
        ends = ((Partition(*place), end) for place, end in (self._ends or {}).items())
        return {place: max(0, end - positions[place]) for place, end in ends}

    def at_end(self) -> bool:
        """Whether all partitions were read to their set ends; False without ends."""
        if self._ends is None:
            return False
        # Positions move over markers and aborted records too, which `poll` never shows.
        with mapped("asking for positions"):
            return all(self._consumer.position(partition) >= end for partition, end in self._ends.items())


def _readable(read: ReadRecord) -> bool:
    if (why := read.unreadable) is not None:
        logger.warning(
            "%s:%d:%d is passed over (%s): %s", read.topic, read.partition, read.offset, why.reason, why.detail
        )
    return why is None


def tail(
    servers: str,
    topics: Sequence[str],
    *,
    start: Literal["beginning", "end"] = "end",
    since_ms: int | None = None,
    at: Mapping[Partition, int] | None = None,
    follow: bool = True,
    security: Security | None = None,
) -> Tail:
    """Read whole topics, with all records committed after this returns.

    Args:
        start: where every partition begins.
        since_ms: begin with each partition's first record of this time or later instead, in ms since 1970.
        at: offsets to begin at instead, of some partitions; one that the topic no longer has is its first.
        follow: whether reading never ends; otherwise it ends at the records that are committed now.

    Raises:
        Misconfigured: a topic does not exist.
        Unavailable: no broker answers.
    """
    consumer = _consumer(servers, security)
    try:
        with mapped(f"reading {', '.join(topics)}"):
            partitions = partitions_of(consumer, topics)
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions, timeout_ms=10_000)
            first = consumer.beginning_offsets(partitions, timeout_ms=10_000)
            starts = dict(ends if start == "end" else first)
            if since_ms is not None:
                since = first_since(consumer, partitions, since_ms)
                starts = {place: ends[place] if offset is None else offset for place, offset in since.items()}
            for partition, offset in (at or {}).items():
                place = TopicPartition(*partition)
                if place in starts:
                    starts[place] = min(max(offset, first[place]), ends[place])
            for place in partitions:
                consumer.seek(place, starts[place])
    except BaseException:
        end_consumer(consumer)
        raise
    return Tail(consumer, None if follow else ends)


def between(
    servers: str,
    spans: Mapping[Partition, tuple[int, int]],
    *,
    security: Security | None = None,
    isolation: Isolation = "read_committed",
) -> Tail:
    """Read committed records within spans of offsets, without their ends.

    An unreadable batch comes as one record for all its offsets. Reading waits for open transactions to end. The offsets
    must exist or have existed: see `extents`. Raises Unavailable: no broker answers.
    """
    consumer = _consumer(servers, security, isolation_level=isolation)
    try:
        with mapped("beginning to read"):
            consumer.assign([TopicPartition(*place) for place in spans])
            for place, (first, _) in spans.items():
                consumer.seek(TopicPartition(*place), first)
    except BaseException:
        end_consumer(consumer)
        raise
    return Tail(consumer, {TopicPartition(*place): end for place, (_, end) in spans.items()}, unreadable=True)


def first_times(
    servers: str,
    spans: Mapping[Partition, tuple[int, int]],
    *,
    timeout_s: float = 5.0,
    security: Security | None = None,
) -> dict[Partition, int]:
    """Time of each span's first committed record, in ms since 1970.

    Spans without a record, or without one within `timeout_s`, are left out. About a batch of each is fetched.
    """
    if not spans:
        return {}
    consumer = _consumer(servers, security, max_partition_fetch_bytes=_ONE_BATCH_BYTES)
    ends = {TopicPartition(*partition): end for partition, (_, end) in spans.items()}
    found: dict[Partition, int] = {}
    deadline = time.monotonic() + timeout_s
    try:
        with mapped("reading the times of records"):
            consumer.assign(list(ends))
            committed = consumer.end_offsets(list(ends), timeout_ms=timeout_s * 1000)
            ends = {place: min(end, committed[place]) for place, end in ends.items()}
            for partition, (start, _) in spans.items():
                consumer.seek(TopicPartition(*partition), start)
            reading = BoundedReading(consumer, batch_bytes=BATCH_BYTES, poll_bytes=BATCH_BYTES)
            while ends and time.monotonic() < deadline:
                reading.begin()
                for place, batch in consumer.poll(timeout_ms=_POLL_S * 1000).items():
                    if batch:
                        found.setdefault(Partition(*place), batch[0].timestamp_ms)
                done = [place for place, end in ends.items() if place in found or consumer.position(place) >= end]
                consumer.pause(*done)
                for place in done:
                    del ends[place]
    finally:
        end_consumer(consumer)
    return found


def _consumer(servers: str, security: Security | None, **settings: Any) -> Any:
    return connect(
        KafkaConsumer,
        servers,
        security or {},
        timeout_s=_CONNECT_S,
        answer_bytes=FETCH_ANSWER_BYTES,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        fetch_max_wait_ms=int(_POLL_S * 1000),
        metrics_enabled=False,
        **{"isolation_level": "read_committed", **settings},
    )


class Extent(NamedTuple):
    """A partition's start and end offset, open transactions included."""

    begin: int
    end: int


def extents(servers: str, topics: Sequence[str], *, security: Security | None = None) -> dict[Partition, Extent]:
    """Present start and end offset of every partition of these topics.

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
    """Each partition's first offset since a time (ms since 1970), or None.

    Raises Misconfigured, Unavailable: as for `extents`.
    """
    with _asking(servers, security, topics, "asking for offsets by time") as (consumer, places):
        return {Partition(*place): offset for place, offset in first_since(consumer, places, time_ms).items()}


@contextmanager
def _asking(
    servers: str, security: Security | None, topics: Sequence[str], doing: str
) -> Iterator[tuple[Any, list[TopicPartition]]]:
    consumer = _consumer(servers, security)
    try:
        with mapped(doing):
            yield consumer, partitions_of(consumer, topics)
    finally:
        end_consumer(consumer)
