"""The in-memory fakes of the Kafka source and publisher, on a `MemoryBroker`.

They follow the same rules as the real ones (workers/backends/kafka.py), and one contract suite runs on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from tagstream_testing.memory_broker import BrokerTransaction, Fault, Member, MemoryBroker
from workers.backends.kafka.types import (
    Delivery,
    FencingDetector,
    OffsetReset,
    check_sendable,
    out_of_range,
    record_of,
    refusal,
)
from workers.errors import Broken, TagstreamError, Unpublished
from workers.types import Assignment, Membership, Partition, Polled, ReadRecord, Record, Transaction

__all__ = ["Fault", "MemoryBroker", "MemoryPublisher", "MemoryRecordSource"]

_PAUSE_S = 0.02


class MemoryRecordSource:
    """One member of a group on a `MemoryBroker`. Joins at its first poll.

    Args:
        broker: where the topics are.
        group: the consumer group.
        topics: what to read; they must exist.
    """

    def __init__(self, broker: MemoryBroker, group: str, topics: Sequence[str]) -> None:
        self.member = Member(tuple(topics))
        self._broker = broker
        self._group = group
        self._positions: dict[Assignment, int] = {}
        self._paused: set[Assignment] = set()
        self._opens: dict[Partition, tuple[int, float]] = {}
        """Where the first open transaction of a partition begins, and since when that is known."""

    def membership(self) -> Membership:
        with self._broker.changed:
            return self.member.believed

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        with self._broker.changed:
            self._broker.commit_offsets(self._group, self.member.believed, offsets)

    def joined(self) -> bool:
        with self._broker.changed:
            return self._broker.joined(self._group, self.member)

    def poll(self, timeout_s: float) -> Polled:
        with self._broker.changed:
            self._broker.require(self.member.topics)
            self._broker.changed.wait_for(lambda: not self._broker.away, timeout_s)
            if self._broker.away:
                return Polled((), ())
            self._rejoin_if_needed()
            if not self._anything():
                self._broker.changed.wait_for(self._anything, timeout_s)
            self._note_open()
            return Polled(tuple(self._take()), tuple(self._started()))

    def start(self, assignment: Assignment, offset: int) -> None:
        with self._broker.changed:
            if assignment.current and self.member.assigned.get(assignment.partition) is assignment:
                self._positions[assignment] = offset

    def pause(self, partitions: Sequence[Partition]) -> None:
        with self._broker.changed:
            self._paused.update(self._held(partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        with self._broker.changed:
            self._paused.difference_update(self._held(partitions))

    def ends(self) -> dict[Partition, int]:
        with self._broker.changed:
            return {
                each.partition: self._end(each.partition, at) for each, at in self._positions.items() if each.current
            }

    def positions(self) -> dict[Partition, int]:
        with self._broker.changed:
            return {
                each.partition: at if self._broker.read(each.partition, at) else self._broker.bounds(each.partition)[1]
                for each, at in self._positions.items()
                if each.current
            }

    def held_up(self) -> dict[Partition, float]:
        now = time.monotonic()
        with self._broker.changed:
            return {
                each.partition: now - self._opens[each.partition][1]
                for each, at in self._positions.items()
                if each.current and each.partition in self._opens and not self._broker.read(each.partition, at)
            }

    def close(self) -> None:
        with self._broker.changed:
            self._broker.leave(self._group, self.member)

    def _end(self, partition: Partition, at: int) -> int:
        """Where all is read: behind the last record."""
        all_read = partition not in self._opens and not self._broker.read(partition, at)
        return at if all_read else self._broker.end(partition)

    def _note_open(self) -> None:
        for assignment in self._positions:
            _, stable = self._broker.bounds(assignment.partition)
            if stable == self._broker.end(assignment.partition):
                self._opens.pop(assignment.partition, None)
            elif self._opens.get(assignment.partition, (-1, 0.0))[0] != stable:
                self._opens[assignment.partition] = stable, time.monotonic()

    def _rejoin_if_needed(self) -> None:
        member = self.member
        if not self._broker.joined(self._group, member):
            for partition in list(member.assigned):
                member.drop(partition)
            self._broker.join(self._group, member)
        self._broker.catch_up(self._group, member)
        for partition, assignment in list(member.assigned.items()):
            if assignment.member_id != member.id or not assignment.current:
                member.drop(partition)
                member.assign(partition)

    def _held(self, partitions: Sequence[Partition]) -> list[Assignment]:
        return [self.member.assigned[partition] for partition in partitions if partition in self.member.assigned]

    def _reading(self) -> Iterable[tuple[Assignment, int]]:
        self._positions = {assignment: offset for assignment, offset in self._positions.items() if assignment.current}
        self._paused = {assignment for assignment in self._paused if assignment.current}
        return [(assignment, at) for assignment, at in self._positions.items() if assignment not in self._paused]

    def _anything(self) -> bool:
        if self._broker.away:
            return False
        out_of_date = not self._broker.joined(self._group, self.member)
        return bool(
            out_of_date or self.member.fresh or any(self._fetch(assignment, at) for assignment, at in self._reading())
        )

    def _fetch(self, assignment: Assignment, offset: int) -> list[ReadRecord]:
        partition = assignment.partition
        first, _ = self._broker.bounds(partition)
        if not first <= offset <= self._broker.end(partition):
            raise Broken(out_of_range(partition, offset, first, self._broker.end(partition)))
        return self._broker.read(partition, offset)

    def _take(self) -> Iterable[Record]:
        for assignment, offset in self._reading():
            for read in self._fetch(assignment, offset):
                record = record_of(read, assignment)
                yield record
                self._positions[assignment] = record.next_offset

    def _started(self) -> list[Assignment]:
        fresh, self.member.fresh = self.member.fresh, []
        return [assignment for assignment in fresh if assignment.current]


class MemoryPublisher:
    """A publisher on a `MemoryBroker`.

    Args:
        broker: where the topics are.
        group: the consumer group whose offsets are committed.
        transactional_id: one for each worker.
        membership: the source's own, asked at every commit.
        output_topics: every topic that a message may name; they must exist.
        delivery: with "at_least_once" messages are visible before their offsets are committed.
        offset_reset: where a group without committed offsets begins.
        transaction_timeout_s: fenced twice within this time means that another process has our transactional id.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        group: str,
        transactional_id: str,
        *,
        membership: Callable[[], Membership],
        output_topics: Sequence[str],
        delivery: Delivery = "exactly_once",
        offset_reset: OffsetReset = "earliest",
        transaction_timeout_s: float = 10.0,
    ) -> None:
        self._broker = broker
        self._group = group
        self._transactional_id = transactional_id
        self._membership = membership
        self._delivery = delivery
        self._offset_reset = offset_reset
        self._failed = False
        self._interrupted = False
        self._fencing = FencingDetector(transactional_id, transaction_timeout_s)
        with broker.changed:
            broker.require(output_topics)
            self._limits = {topic: broker.max_message_bytes(topic) for topic in output_topics}
            self.max_message_bytes: Mapping[str, int] = self._limits
            self.lost: Mapping[Assignment, str] = {}
            self._producer_epoch = self._init()

    def publish(self, transaction: Transaction) -> None:
        if self._failed:
            raise RuntimeError("publish after a failed transaction: recover must come first")
        check_sendable(transaction.messages, self.max_message_bytes)
        self._failed = True
        try:
            self._publish(transaction)
        except Unpublished as error:
            self._fencing.note(error.cause)
            raise
        self._failed = False

    def recover(self) -> None:
        with self._broker.changed:
            self._broker.changed.wait_for(lambda: self._interrupted or not self._broker.away)
            if self._broker.away:
                return
            for topic in self._limits:
                self._limits[topic] = self._broker.max_message_bytes(topic)
            self._producer_epoch = self._init()
            self._fencing.initialised()
            self._failed = False

    def committed(self, assignment: Assignment) -> int | None:
        with self._broker.changed:
            if not self._may_ask(assignment):
                # A caller that asks again at once would spin.
                self._broker.changed.wait(_PAUSE_S)
                return None
            offset = self._broker.committed_offset(self._group, assignment.partition)
            return self._first_offset(assignment) if offset is None else offset

    def interrupt(self) -> None:
        with self._broker.changed:
            self._interrupted = True
            self._broker.changed.notify_all()

    def stuck(self) -> str | None:
        return None

    def close(self) -> None:
        with self._broker.changed:
            if not self._is_fenced():
                self._init()

    def _init(self) -> int:
        return self._broker.init_producer(self._transactional_id) if self._delivery == "exactly_once" else -1

    def _may_ask(self, assignment: Assignment) -> bool:
        refused = refusal(self._membership(), [assignment]) is not None
        return not (refused or self._broker.away or self._broker.pending(self._group, assignment.partition))

    def _reach(self) -> None:
        if self._broker.away:
            raise Unpublished("broker", "the broker does not answer")

    def _is_fenced(self) -> bool:
        return self._producer_epoch >= 0 and not self._broker.owns(self._transactional_id, self._producer_epoch)

    def _publish(self, transaction: Transaction) -> None:
        with self._broker.changed:
            self._reach()
            fault = self._broker.next_fault()
            opened = self._send(transaction, fault)
        if (hook := self._broker.before_commit) is not None:
            hook()
        with self._broker.changed:
            self._reach()
            self._commit(transaction.offsets, opened, fault)

    def _send(self, transaction: Transaction, fault: Fault | None) -> BrokerTransaction | None:
        opened = None
        if self._delivery == "exactly_once":
            opened = self._broker.begin(self._transactional_id, self._producer_epoch)
        if fault is Fault.SEND:
            raise Unpublished("send", fault.value)
        for message in transaction.messages:
            self._broker.send(message, opened)
        return opened

    def _commit(self, offsets: Mapping[Assignment, int], opened: BrokerTransaction | None, fault: Fault | None) -> None:
        membership = self._membership()
        if offsets and (reason := refusal(membership, offsets)) is not None:
            raise Unpublished("membership", reason)
        if fault is Fault.OFFSETS_REFUSED:
            raise Unpublished("membership", fault.value)
        if fault is Fault.FENCED:
            self._broker.init_producer(self._transactional_id)
            raise Unpublished("fenced", fault.value)
        if fault is Fault.COMMIT_LOST:
            raise Unpublished("timeout", fault.value)
        by_partition = {assignment.partition: offset for assignment, offset in offsets.items()}
        if opened is None:
            self._broker.commit_offsets(self._group, membership, by_partition)
        else:
            if by_partition:
                self._broker.add_offsets(opened, self._group, membership, by_partition)
            self._broker.commit(opened)
        if fault is Fault.COMMIT_UNACKNOWLEDGED:
            raise Unpublished("timeout", fault.value)

    def _first_offset(self, assignment: Assignment) -> int | None:
        first, stable = self._broker.bounds(assignment.partition)
        offset = first if self._offset_reset == "earliest" else stable
        membership = self._membership()
        if refusal(membership, [assignment]) is not None:
            return None
        try:
            self._broker.commit_offsets(self._group, membership, {assignment.partition: offset})
        except TagstreamError:
            return None
        return offset
