"""The record source on Apache Kafka: one member of a consumer group.

Three threads come here. The poll thread owns the consumer. kafka-python's own I/O thread runs the rebalance callbacks,
always while the poll thread waits inside `poll`; they only mark. The publish thread asks for the membership and, with
at_least_once, commits; both calls are made for any thread.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

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
from workers.backends.kafka.types import Isolation, ReadRecord, out_of_range, record_of
from workers.errors import Broken, Unavailable
from workers.types import Assignment, Coordinates, Membership, Partition, Polled, Record

logger = logging.getLogger(__name__)

_ALL = sys.maxsize
"""A poll takes all that was fetched: a partition that is paused while part of its fetch is still in kafka-python's
hands is never fetched again once another one was read."""

_HEARTBEAT_STEP_S = 0.005

_TELL_S = 5.0
"""How often the log tells of a broker that goes on failing, which is polled ten times a second."""

_JOIN_S = 0.02
"""The longest poll until we are a member for the first time: it does not return earlier for having become one. Later
on, when the group is joined anew because brokers are away, more polls would only be more of their waiters."""

_ANYWHERE = 0
"""Where a partition stands that is paused until `start` seeks: kafka-python would else look for the committed offset by
itself, which blocks every other partition as long as a transaction is pending on this one."""


class KafkaRecordSource:
    """The input topics as one group member (`workers.ports.RecordSource`). The first poll joins the group.

    Args:
        servers: "host:port,host:port".
        group: the consumer group.
        topics: what to read.
        security: TLS and SASL settings by kafka-python's names.
        session_timeout_s: how long the group waits for a silent member before it gives its partitions away.
        fetch_bytes: about how much one poll may bring, in bytes as stored (compressed) and in memory.
        batch_bytes: what one batch of records may hold in memory; one that would hold more is not opened.
        isolation: whether open transactions hold up what stands behind them, and records of aborted ones are left out.
        connect_timeout_s: how long to try to reach a broker at first.

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
        self._led_at = self._counted_at = time.monotonic()
        self._told_leaderless = False
        self._group = group
        self._lock = threading.Lock()
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._fresh: list[Assignment] = []
        self._open: set[Assignment] = set()
        self._paused: set[Assignment] = set()
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
            # Below the session's default, so that a member whose coordinator hangs can find the next one in time.
            request_timeout_ms=6_000,
            metrics_enabled=False,
        )
        metrics.RETRIES.begin(dependency="kafka")
        self._reading = BoundedReading(self._consumer, batch_bytes=batch_bytes, poll_bytes=fetch_bytes)
        _pace_coordinator_lookups(self._consumer)
        self._consumer.subscribe(topics=list(topics), listener=_Callbacks(self))

    def membership(self) -> Membership:
        known = self._consumer.group_metadata()
        return Membership(known.generation_id, known.member_id)

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        """Commit beside any transaction.

        The request is sent from the client's I/O thread under the membership of that moment, and the group refuses it
        unless that is current. It is never asked whether the partition is still ours: should it have left since the
        caller looked, the offset goes back to what we published last, and its new owner's next commit corrects that.

        Raises:
            kafka.errors.KafkaError: for the publisher, which maps them.
        """
        at = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        self._consumer.commit(at, timeout_ms=int(timeout_s * 1000))

    def joined(self) -> bool:
        return self._topics_checked and _is_member(self._consumer.group_metadata())

    def poll(self, timeout_s: float) -> Polled:
        until = time.monotonic() + timeout_s
        try:
            self._require_topics()
            batches = self._fetch(timeout_s)
        except Unavailable as error:
            self._wait_out(error, until)
            batches = {}
        self._tell_of_leader()
        self._renew_ended()
        return Polled(tuple(self._records(batches)), self._collect())

    def start(self, assignment: Assignment, offset: int) -> None:
        with self._lock:
            if not assignment.current or self._assignments.get(TopicPartition(*assignment.partition)) is not assignment:
                return
            self._open.add(assignment)
        partition = TopicPartition(*assignment.partition)
        self._handed_on[partition] = offset
        self._consumer.seek(partition, offset)
        if assignment not in self._paused:
            self._consumer.resume(partition)

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition, assignment in self._held(partitions):
            self._paused.add(assignment)
            self._consumer.pause(partition)

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition, assignment in self._held(partitions):
            self._paused.discard(assignment)
            if assignment in self._open:
                self._consumer.resume(partition)

    def ends(self) -> dict[Partition, int]:
        ends = {}
        for place, (position, end) in self._positions().items():
            # All of it was read: what comes after the last record are markers, and records of aborted transactions.
            ends[Partition(*place)] = end if position < end else self._handed_on.get(place, end)
        return ends

    def positions(self) -> dict[Partition, int]:
        return {Partition(*place): position for place, (position, _) in self._positions().items()}

    def held_up(self) -> dict[Partition, float]:
        if self._isolation == "read_uncommitted":
            return {}
        waits = {place: self._reading.held_up_s(place, position) for place, (position, _) in self._positions().items()}
        return {Partition(*place): seconds for place, seconds in waits.items() if seconds}

    def _positions(self) -> dict[TopicPartition, tuple[int, int]]:
        """Position and last known end of each partition, if both are known."""
        # Of the client's own state only what one step reads: it belongs to other threads.
        known = self._consumer._subscription.assignment
        with self._lock:
            states = {place: known.get(place) for place in self._assignments}
        return {
            place: (position.offset, state.highwater)
            for place, state in states.items()
            if state is not None and state.highwater is not None and (position := state.position) is not None
        }

    def close(self) -> None:
        end_consumer(self._consumer)
        self.drop(list(self._assignments))

    # On the client's I/O thread, or on the poll thread while that one rests

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """End the assignments of partitions that left us."""
        with self._lock:
            for partition in partitions:
                if (assignment := self._assignments.pop(partition, None)) is not None:
                    assignment.end()
                    self._reading.forget(partition)

    def take(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin assignments of our partitions, which then wait for `start`."""
        member_id = self.membership().member_id
        partitions = sorted(partitions)
        self.drop(partitions)
        self._consumer.pause(*partitions)
        with self._lock:
            for partition in partitions:
                self._consumer.seek(partition, _ANYWHERE)
                assignment = Assignment(Partition(partition.topic, partition.partition), member_id)
                self._assignments[partition] = assignment
                self._fresh.append(assignment)

    # On the poll thread

    def _require_topics(self) -> None:
        if self._topics_checked:
            return
        with mapped("listing the topics"):
            try:
                known = self._consumer.topics()
            except kafka_errors.UnknownTopicOrPartitionError:
                return  # an answer about our own topics came first, and names none: the next poll asks again
        require_among(known, self._topics)
        self._topics_checked = True
        self._led_at = time.monotonic()  # no broker was asked to lead before

    def _fetch(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[ReadRecord]]:
        doing = f"reading {', '.join(self._topics)}"
        self._has_joined = self._has_joined or self.joined()
        if not self._has_joined:
            timeout_s = min(timeout_s, _JOIN_S)
        self._finish_pending_join()
        timeout_s = self._await_heartbeat(timeout_s)
        self._reading.begin()
        try:
            return dict(self._consumer.poll(timeout_ms=timeout_s * 1000))
        except kafka_errors.OffsetOutOfRangeError as error:
            raise self._out_of_range(error) from error
        except kafka_errors.LogTruncationError as error:
            raise Broken(_truncated(error)) from error
        except kafka_errors.KafkaError as error:
            # A topic that was there is missed for a moment while its metadata changes.
            raise (Unavailable("kafka", f"{doing}: {error}") if passing(error) else translated(doing, error)) from error

    def _finish_pending_join(self) -> None:
        """Let a join that has begun be completed.

        kafka-python 3.0.12 asks at each poll whether it needs to join. If metadata changed and changed back before the
        answer, no code takes that answer: heartbeats stay off, and the group expels us unnoticed.
        """
        coordinator = self._consumer._coordinator
        with coordinator._lock:
            if coordinator.rejoining:
                coordinator.request_rejoin()

    def _await_heartbeat(self, timeout_s: float) -> float:
        """Wait while an overdue heartbeat has no answer; returns the time left.

        While one is overdue, kafka-python 3.0.12 polls without waiting (17 times in 20 ms), and each poll leaves 4 KB
        with the fetch under way: 30 MB within the request timeout, in no budget. The steps are short because any
        heartbeat is due for a moment, and records would wait meanwhile.
        """
        coordinator = self._consumer._coordinator
        left_s, until = timeout_s, time.monotonic() + timeout_s
        while left_s > 0 and coordinator.stable() and coordinator.time_to_next_poll() == 0:
            time.sleep(min(_HEARTBEAT_STEP_S, left_s))
            left_s = max(0.0, until - time.monotonic())
        return left_s

    def _wait_out(self, error: Unavailable, until: float) -> None:
        """Log and wait before the next poll: other partitions may be readable."""
        metrics.RETRIES.add(dependency="kafka")
        now = time.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            logger.warning("polling again: %s", error.detail)
        time.sleep(max(0.0, min(0.1, until - now)))

    def _tell_of_leader(self) -> None:
        """Log once that the group has no coordinator, and once its return.

        Each `_TELL_S` counts as a retry: the client's polls raise nothing then.
        """
        now = time.monotonic()
        if self._consumer._coordinator.coordinator_id is not None:
            if self._told_leaderless:
                logger.info("the group %s has a coordinator again", self._group)
            self._led_at, self._told_leaderless = now, False
        elif now - max(self._led_at, self._counted_at) >= _TELL_S:
            metrics.RETRIES.add(dependency="kafka")  # the client goes on asking by itself
            self._counted_at = now
            if not self._told_leaderless:
                self._told_leaderless = True
                logger.warning("no coordinator of the group %s answers: nothing is read until one does", self._group)

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

    def _renew_ended(self) -> None:
        """Renew assignments that another member id or the publish thread ended.

        A member frozen beyond its session can return under a new id with the same partitions and no callback, although
        others worked on them meanwhile. An assignment whose committed offset is another member's ends although its
        partition stays.
        """
        known = self._consumer.group_metadata()
        # Before the join is complete another member may still own, and commit for, what we believe to hold.
        if not _is_member(known):
            return
        held = list(self._assignments.items())
        ended = [tp for tp, assignment in held if assignment.member_id != known.member_id or not assignment.current]
        if ended:
            again = ", ".join(f"{tp.topic}:{tp.partition}" for tp in ended)
            logger.warning("the member id or a committed offset has changed; starting over with %s", again)
            # A join without callbacks can have taken some away, which the client would not let us touch.
            assigned = self._consumer.assignment()
            self.drop(tp for tp in ended if tp not in assigned)
            self.take(tp for tp in ended if tp in assigned)

    def _records(self, batches: Mapping[TopicPartition, Sequence[ReadRecord]]) -> Iterable[Record]:
        for partition, batch in batches.items():
            assignment = self._assignments.get(partition)
            if assignment is None or assignment not in self._open:
                continue
            metrics.CONSUMED_MESSAGES.add(
                len(batch), **metrics.messaging("poll", topic=partition.topic, group=self._group)
            )
            _tell_unreadable(assignment.partition, batch)
            if batch:
                self._handed_on[partition] = batch[-1].offset + batch[-1].offsets
            for read in batch:
                yield record_of(read, assignment)

    def _collect(self) -> tuple[Assignment, ...]:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            self._open = {assignment for assignment in self._open if assignment.current}
            self._paused = {assignment for assignment in self._paused if assignment.current}
        return tuple(assignment for assignment in fresh if assignment.current)

    def _held(self, partitions: Sequence[Partition]) -> list[tuple[TopicPartition, Assignment]]:
        with self._lock:
            asked = [TopicPartition(*partition) for partition in partitions]
            return [(partition, self._assignments[partition]) for partition in asked if partition in self._assignments]


def _is_member(known: Any) -> bool:
    """Whether a join is complete, by kafka-python's metadata of the group."""
    return bool(known.member_id) and known.generation_id >= 0 and known.state == MemberState.STABLE


def _tell_unreadable(partition: Partition, batch: Sequence[ReadRecord]) -> None:
    """Log one line for all unreadable records of a batch."""
    found = [(read.offset, read.unreadable) for read in batch if read.unreadable is not None]
    if found:
        offset, why = found[0]
        more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
        text = "%s can't be read and becomes a dead letter (%s: %s)%s"
        logger.warning(text, Coordinates(*partition, offset, 0), why.reason, why.detail, more)


def _pace_coordinator_lookups(consumer: Any) -> None:
    """Look for the coordinator no more often than connections are allowed.

    The others name a dead node as the coordinator until the controller gives it up (9 s by Kafka's defaults), and
    kafka-python 3.0.12 asks again at once (measured: 600 times a second, each with a warning).
    """
    coordinator = consumer._coordinator
    ask = coordinator._send_group_coordinator_request

    async def patiently() -> Any:
        named = await ask()
        if (delay_s := consumer._client.connection_delay(named)) > 0:
            await coordinator._manager._net.sleep(delay_s)
        return named

    coordinator._send_group_coordinator_request = patiently


def _truncated(error: kafka_errors.LogTruncationError) -> str:
    """A sentence about brokers that lost records already read."""
    places = ", ".join(str(Partition(place.topic, place.partition)) for place in sorted(error.divergent_offsets))
    return (
        f"the log of {places} ends before what was read of it: an unclean leader election has lost records. Set the"
        f" group's offset to one that exists (kafka-consumer-groups --reset-offsets) to accept that, then start again"
    )


class _Callbacks(ConsumerRebalanceListener):  # type: ignore[misc]
    """Rebalance callbacks on the client's I/O thread; they must not wait."""

    def __init__(self, source: KafkaRecordSource) -> None:
        self._source = source

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._source.take(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._source.drop(revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._source.drop(lost)
