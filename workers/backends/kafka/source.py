"""The record source on Apache Kafka: reads the input topics as one member of a consumer group.

The poll thread owns the consumer. With at_least_once the publish thread commits, which is safe in any thread.
`membership.py` lists the other threads.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from workers import metrics
from workers.backends.kafka.client import (
    FETCH_ANSWER_BYTES,
    Security,
    connect,
    end_consumer,
    mapped,
    passing,
    require_among,
    translated,
)
from workers.backends.kafka.fetch import BATCH_BYTES, BoundedReading
from workers.backends.kafka.membership import TELL_S, GroupMembership
from workers.backends.kafka.types import Isolation, out_of_range, record_of
from workers.errors import Broken, Unavailable
from workers.types import Assignment, Coordinates, Membership, Partition, Polled, ReadRecord, Record

logger = logging.getLogger(__name__)

_ALL = sys.maxsize
"""A poll takes all fetched records. Otherwise a partition that is paused while kafka-python holds a part of its fetch
is never fetched again once another one was read."""

_JOIN_S = 0.02
"""Longest poll before the first join, since a poll does not return when the join is complete. Later joins wait for
absent brokers, and short polls would only add waiters."""


class KafkaRecordSource:
    """The input topics as one group member (`workers.ports.RecordSource`). The first poll joins the group.

    Args:
        session_timeout_s: how long the group waits for a silent member before it gives its partitions away.
        fetch_bytes: about how much one poll may bring, in bytes as stored (compressed) and in memory.
        batch_bytes: what one batch of records may hold in memory; one that would hold more is not opened.
        isolation: whether records wait for open transactions before them, and those of aborted ones are left out.

    Raises:
        Unavailable: no broker answers.
        Misconfigured: settings that can't work.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        topics: Sequence[str],
        *,
        security: Security | None = None,
        session_timeout_s: float = 8.0,
        fetch_bytes: int = 8 << 20,
        batch_bytes: int = BATCH_BYTES,
        isolation: Isolation = "read_committed",
        connect_timeout_s: float = 30.0,
    ) -> None:
        self._topics = tuple(topics)
        self._topics_checked = False
        self._has_joined = False
        self._told_at = float("-inf")
        self._group = group
        self._isolation = isolation
        self._handed_on: dict[TopicPartition, int] = {}
        """Behind the last record of a partition that `poll` has given, or where it began."""
        self._consumer: Any = connect(
            KafkaConsumer,
            servers,
            security or {},
            timeout_s=connect_timeout_s,
            answer_bytes=FETCH_ANSWER_BYTES,
            group_id=group,
            isolation_level=isolation,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            partition_assignment_strategy=(CooperativeStickyAssignor,),
            session_timeout_ms=int(session_timeout_s * 1000),
            heartbeat_interval_ms=500,
            max_poll_interval_ms=60_000,
            max_poll_records=_ALL,
            max_partition_fetch_bytes=min(1 << 20, fetch_bytes),
            fetch_max_bytes=fetch_bytes,
            fetch_max_wait_ms=250,
            # The default of 5 minutes is how long partitions that are added to a topic are not read.
            metadata_max_age_ms=30_000,
            # Below the session's default, so that a member can leave a hanging coordinator in time.
            request_timeout_ms=6_000,
            metrics_enabled=False,
        )
        metrics.RETRIES.begin(dependency="kafka")
        self._reading = BoundedReading(self._consumer, batch_bytes=batch_bytes, poll_bytes=fetch_bytes)
        self._member = GroupMembership(self._consumer, group, topics, self._reading.forget)

    def membership(self) -> Membership:
        return self._member.membership()

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        """Commit outside of any transaction.

        The client's I/O thread sends the request under the membership of that moment, and the group refuses it unless
        that is current. The group does not check the partition's owner: if the partition has just left us, its offset
        goes back to our last published one, until the new owner's next commit.

        Raises:
            kafka.errors.KafkaError: for the publisher, which maps them.
        """
        at = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        self._consumer.commit(at, timeout_ms=int(timeout_s * 1000))

    def joined(self) -> bool:
        return self._topics_checked and self._member.joined()

    def poll(self, timeout_s: float) -> Polled:
        until = time.monotonic() + timeout_s
        try:
            self._require_topics()
            batches = self._fetch(timeout_s)
        except Unavailable as error:
            self._wait_out(error, until)
            batches = {}
        self._member.tell_of_leader()
        self._member.renew_ended()
        return Polled(tuple(self._records(batches)), self._member.started())

    def start(self, assignment: Assignment, offset: int) -> None:
        if self._member.open(assignment):
            self._handed_on[TopicPartition(*assignment.partition)] = offset
            self._member.begin(assignment, offset)

    def pause(self, partitions: Sequence[Partition]) -> None:
        self._member.pause(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        self._member.resume(partitions)

    def ends(self) -> dict[Partition, int]:
        ends = {}
        for place, (position, end) in self._member.positions().items():
            # All was read: only markers and records of aborted transactions follow the last record.
            ends[Partition(*place)] = end if position < end else self._handed_on.get(place, end)
        return ends

    def positions(self) -> dict[Partition, int]:
        return {Partition(*place): position for place, (position, _) in self._member.positions().items()}

    def held_up(self) -> dict[Partition, float]:
        if self._isolation == "read_uncommitted":
            return {}
        known = self._member.positions().items()
        waits = {place: self._reading.held_up_s(place, position) for place, (position, _) in known}
        return {Partition(*place): seconds for place, seconds in waits.items() if seconds}

    def close(self) -> None:
        end_consumer(self._consumer)
        self._member.close()

    # On the poll thread

    def _require_topics(self) -> None:
        if self._topics_checked:
            return
        with mapped("listing the topics"):
            try:
                known = self._consumer.topics()
            except kafka_errors.UnknownTopicOrPartitionError:
                return  # an earlier answer about our topics, without a name: the next poll asks again
        require_among(known, self._topics)
        self._topics_checked = True
        self._member.first_asked()

    def _fetch(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[ReadRecord]]:
        doing = f"reading {', '.join(self._topics)}"
        self._has_joined = self._has_joined or self.joined()
        if not self._has_joined:
            timeout_s = min(timeout_s, _JOIN_S)
        timeout_s = self._member.await_answers(timeout_s)
        self._reading.begin()
        try:
            return dict(self._consumer.poll(timeout_ms=timeout_s * 1000))
        except kafka_errors.OffsetOutOfRangeError as error:
            raise self._out_of_range(error) from error
        except kafka_errors.LogTruncationError as error:
            raise Broken(_truncated(error)) from error
        except kafka_errors.KafkaError as error:
            # A topic can be missing for a moment while its metadata changes.
            raise (Unavailable("kafka", f"{doing}: {error}") if passing(error) else translated(doing, error)) from error

    def _wait_out(self, error: Unavailable, until: float) -> None:
        """Log and wait before the next poll: other partitions may be readable."""
        metrics.RETRIES.add(dependency="kafka")
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            logger.warning("polling again: %s", error.detail)
        time.sleep(max(0.0, min(0.1, until - now)))

    def _out_of_range(self, error: kafka_errors.OffsetOutOfRangeError) -> Broken | Unavailable:
        """Ask again whether our next offset is gone, and return the error."""
        partition, offset = next(iter(error.args[0].items()))
        place = Partition(partition.topic, partition.partition)
        doubtful = f"offset {offset} of {place} is out of range, says the broker"
        try:
            first = self._consumer.beginning_offsets([partition], timeout_ms=5_000)[partition]
            end = self._consumer.end_offsets([partition], timeout_ms=5_000)[partition]
        except kafka_errors.KafkaError as silence:
            return Unavailable("kafka", f"{doubtful}, but not what it has: {silence}")
        if first <= offset <= end:
            return Unavailable("kafka", f"{doubtful}, and that it has {first} to {end}")
        return Broken(out_of_range(place, offset, first, end))

    def _records(self, batches: Mapping[TopicPartition, Sequence[ReadRecord]]) -> Iterable[Record]:
        for partition, batch in batches.items():
            assignment = self._member.opened(partition)
            if assignment is None:
                continue
            metrics.CONSUMED_MESSAGES.add(
                len(batch), **metrics.messaging("poll", topic=partition.topic, group=self._group)
            )
            _tell_unreadable(assignment.partition, batch)
            if batch:
                self._handed_on[partition] = batch[-1].offset + batch[-1].offsets
            for read in batch:
                yield record_of(read, assignment)


def _tell_unreadable(partition: Partition, batch: Sequence[ReadRecord]) -> None:
    """Log one line for all unreadable records of a batch."""
    found = [(read.offset, read.unreadable) for read in batch if read.unreadable is not None]
    if found:
        offset, why = found[0]
        more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
        text = "%s can't be read and becomes a dead letter (%s: %s)%s"
        logger.warning(text, Coordinates(*partition, offset, 0), why.reason, why.detail, more)


def _truncated(error: kafka_errors.LogTruncationError) -> str:
    """A sentence about brokers that lost records already read."""
    places = ", ".join(str(Partition(place.topic, place.partition)) for place in sorted(error.divergent_offsets))
    return (
        f"the log of {places} ends before what was read of it: an unclean leader election has lost records. Set the"
        f" group's offset to one that exists (kafka-consumer-groups --reset-offsets) to accept that, then start again"
    )
