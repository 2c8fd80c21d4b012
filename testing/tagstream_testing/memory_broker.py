"""A Kafka broker in memory: topics, one coordinator for each group, transactions, and faults on request.

It keeps the traits of the real one that a worker must live with: markers take offsets, so offsets have gaps; a
reader sees nothing from the first open transaction on; an offset commit without a generation is accepted unchecked;
no check asks whether a member owns the partition it commits for; an expelled member does not know it until it polls.

All members of a group are taken to subscribe the same topics.
"""

from __future__ import annotations

import enum
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.errors import Misconfigured, Unpublished
from workers.types import NO_MEMBERSHIP, Assignment, Headers, Membership, Message, Partition, ReadRecord, Unreadable

DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default of max.message.bytes."""


class Fault(enum.Enum):
    """The fault of the next transaction, see `MemoryBroker.fail_next`."""

    SEND = "a message is not accepted"
    OFFSETS_REFUSED = "the group refuses the offsets, as it does in the middle of a join"
    COMMIT_LOST = "the commit's answer never comes, and it has not happened"
    COMMIT_UNACKNOWLEDGED = "the commit's answer never comes, although it has happened"
    FENCED = "another process has taken our transactional id"


@dataclass(eq=False, slots=True)
class Member:
    """One consumer, as the group and the client know it. The client's view may be out of date."""

    topics: tuple[str, ...]
    id: str = ""
    believed: Membership = NO_MEMBERSHIP
    assigned: dict[Partition, Assignment] = field(default_factory=dict)
    fresh: list[Assignment] = field(default_factory=list)
    """Assignments that the client does not know yet."""

    def assign(self, partition: Partition) -> None:
        assignment = Assignment(partition, self.believed.member_id)
        self.assigned[partition] = assignment
        self.fresh.append(assignment)

    def drop(self, partition: Partition) -> None:
        self.assigned.pop(partition).end()


class _Group:
    def __init__(self) -> None:
        self.generation = 0
        self.joined = 0
        self.members: list[Member] = []
        self.owners: dict[Partition, Member] = {}
        self.offsets: dict[Partition, int] = {}

    def new_member_id(self) -> str:
        self.joined += 1
        return f"member-{self.joined}"

    def rebalance(self, partitions: Sequence[Partition]) -> None:
        """A new generation, and as few moves as make the shares even."""
        self.generation += 1
        for member in self.members:
            member.believed = Membership(self.generation, member.id)
        self._settle(balanced(partitions, self.owners, self.members))

    def move(self, partition: Partition, to: Member) -> None:
        self.generation += 1
        for member in self.members:
            member.believed = Membership(self.generation, member.id)
        self._settle({**self.owners, partition: to})

    def _settle(self, owners: Mapping[Partition, Member]) -> None:
        before, self.owners = self.owners, dict(owners)
        for partition, member in before.items():
            if owners.get(partition) is not member and partition in member.assigned and member in self.members:
                member.drop(partition)
        for partition, member in owners.items():
            if partition not in member.assigned:
                member.assign(partition)


def balanced(
    partitions: Sequence[Partition], owners: Mapping[Partition, Member], members: Sequence[Member]
) -> dict[Partition, Member]:
    """Even shares with as few moves as possible: the result of a cooperative sticky assignor."""
    if not members:
        return {}
    shares: dict[int, list[Partition]] = {index: [] for index in range(len(members))}
    places = {id(member): index for index, member in enumerate(members)}
    homeless: list[Partition] = []
    for partition in partitions:
        owner = owners.get(partition)
        place = None if owner is None else places.get(id(owner))
        (homeless if place is None else shares[place]).append(partition)
    for partition in homeless:
        min(shares.values(), key=len).append(partition)
    while len(largest := max(shares.values(), key=len)) > len(smallest := min(shares.values(), key=len)) + 1:
        smallest.append(largest.pop())
    return {partition: members[index] for index, share in shares.items() for partition in share}


class MemoryBroker:
    """Topics, groups and transactions in memory.

    Thread-safe; `changed` guards everything and is notified when anything happens.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.before_commit: Callable[[], None] | None = None
        """Called once for each transaction, between its messages and its membership check, without any lock held."""
        self._away = False
        self._logs: dict[Partition, Log] = {}
        self._topics: dict[str, int] = {}
        self._max_message_bytes: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._producer_epochs: dict[str, int] = {}
        self._open: dict[str, BrokerTransaction] = {}
        self._faults: deque[Fault] = deque()
        self._next_unkeyed = 0

    # Actions of a test or a demo

    def create_topic(self, name: str, partitions: int, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        """Make a topic or add partitions to it.

        Groups see those at their next rebalance.
        """
        with self.changed:
            self._topics[name] = partitions
            self._max_message_bytes[name] = max_message_bytes
            for number in range(partitions):
                self._logs.setdefault(Partition(name, number), Log())
            self.changed.notify_all()

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        """Add one record outside of any transaction; its offset."""
        with self.changed:
            offset = self._append(Partition(topic, partition), key, value, headers, None)
            self.changed.notify_all()
            return offset

    def append_unreadable(self, topic: str, partition: int, offsets: int, why: Unreadable) -> int:
        """Add a batch of this many records that no reader can open; its first offset."""
        with self.changed:
            place = Partition(topic, partition)
            log = self._logs[place]
            first = log.end
            log.append(ReadRecord(*place, first, _now_ms(), None, None, (), offsets, why), None)
            for _ in range(1, offsets):
                log.append(None, None)
            self.changed.notify_all()
            return first

    def append_aborted(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Add one record in a transaction that is aborted: readers see a gap."""
        self.append_open(topic, partition, key, value)()

    def append_open(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Callable[[], None]:
        """Append one record in an open transaction; returns the call to abort it."""
        with self.changed:
            transaction = self.begin("aborted", self.init_producer("aborted"))
            transaction.partitions.add(Partition(topic, partition))
            self._append(Partition(topic, partition), key, value, (), transaction)

        def abort() -> None:
            with self.changed:
                self.abort(transaction)

        return abort

    def visible(self, topic: str) -> list[ReadRecord]:
        """The records that a read_committed reader sees, by partition and offset."""
        with self.changed:
            numbers = range(self._topics[topic])
            return [record for number in numbers for record in self._logs[Partition(topic, number)].committed_from(0)]

    def committed(self, group: str) -> dict[Partition, int]:
        with self.changed:
            return dict(self._group(group).offsets)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Forget the records below an offset, as retention does."""
        with self.changed:
            self._logs[Partition(topic, partition)].delete_below(before)

    def compact(self, topic: str) -> None:
        """Keep the last record of each key alone and no tombstone."""
        with self.changed:
            for number in range(self._topics[topic]):
                self._logs[Partition(topic, number)].compact()

    def fail_next(self, *faults: Fault) -> None:
        """Let the next transactions fail so, one fault each."""
        with self.changed:
            self._faults.extend(faults)

    @property
    def away(self) -> bool:
        """While true, polls bring nothing, transactions fail, and `recover` waits."""
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        with self.changed:
            self._away = away
            self.changed.notify_all()

    def rebalance(self, group: str) -> None:
        """A join without effect: a new generation in which every member keeps its partitions."""
        with self.changed:
            self._rebalance(self._group(group))

    def move(self, group: str, partition: Partition, member: Member) -> None:
        """Give a partition to this member: its owner's assignment ends, a new one starts there."""
        with self.changed:
            self._group(group).move(partition, member)
            self.changed.notify_all()

    def regain(self, group: str, partition: Partition) -> None:
        """Revoke a partition and give it to the same member again."""
        with self.changed:
            member = self._group(group).owners[partition]
            member.drop(partition)
            member.assign(partition)
            self.changed.notify_all()

    def expel(self, group: str, member: Member) -> None:
        """Put a member out for its silence. It believes in its membership until it polls."""
        with self.changed:
            self._remove(self._group(group), member)

    def rename(self, group: str, member: Member) -> None:
        """Rejoin a member under a new id with the same partitions.

        Without a callback, as kafka-python can do.
        """
        with self.changed:
            member.id = self._group(group).new_member_id()
            self._rebalance(self._group(group))

    # Actions of a client; `changed` is held

    def joined(self, group: str, member: Member) -> bool:
        return any(member is other for other in self._group(group).members)

    def join(self, group: str, member: Member) -> None:
        """Enter the group under a new member id."""
        state = self._group(group)
        member.id = state.new_member_id()
        state.members.append(member)
        self._rebalance(state)

    def catch_up(self, group: str, member: Member) -> None:
        """Learn the group's generation, as a poll does."""
        member.believed = Membership(self._group(group).generation, member.id)

    def leave(self, group: str, member: Member) -> None:
        for partition in list(member.assigned):
            member.drop(partition)
        member.believed = NO_MEMBERSHIP
        if self.joined(group, member):
            self._remove(self._group(group), member)

    def require(self, topics: Iterable[str]) -> None:
        """
        Raises:
            Misconfigured: one of them does not exist.
        """
        for topic in topics:
            if topic not in self._topics:
                raise Misconfigured(f"topic {topic!r} does not exist; create it first")

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The log's start offset and its last stable offset."""
        log = self._logs[partition]
        return log.start, log.last_stable

    def end(self, partition: Partition) -> int:
        return self._logs[partition].end

    def read(self, partition: Partition, offset: int) -> list[ReadRecord]:
        return self._logs[partition].committed_from(offset)

    def max_message_bytes(self, topic: str) -> int:
        return self._max_message_bytes[topic]

    def next_fault(self) -> Fault | None:
        return self._faults.popleft() if self._faults else None

    def init_producer(self, transactional_id: str) -> int:
        """Abort the id's open transaction and fence its producer; returns the new epoch."""
        epoch = self._producer_epochs[transactional_id] = self._producer_epochs.get(transactional_id, -1) + 1
        if (transaction := self._open.get(transactional_id)) is not None:
            self._finish(transaction, TransactionState.ABORTED)
        return epoch

    def owns(self, transactional_id: str, producer_epoch: int) -> bool:
        return self._producer_epochs.get(transactional_id) == producer_epoch

    def begin(self, transactional_id: str, producer_epoch: int) -> BrokerTransaction:
        self._check_producer(transactional_id, producer_epoch)
        transaction = self._open[transactional_id] = BrokerTransaction(transactional_id, producer_epoch)
        return transaction

    def send(self, message: Message, transaction: BrokerTransaction | None) -> None:
        if transaction is not None:
            self._check_producer(transaction.transactional_id, transaction.producer_epoch)
        if message.size > self._max_message_bytes[message.topic]:
            raise Unpublished("size", f"{message.topic} takes {self._max_message_bytes[message.topic]} bytes")
        partition = Partition(message.topic, self._place(message))
        self._append(partition, message.key, message.value, message.headers, transaction)
        if transaction is not None:
            transaction.partitions.add(partition)

    def add_offsets(
        self, transaction: BrokerTransaction, group: str, membership: Membership, offsets: Mapping[Partition, int]
    ) -> None:
        self._check_producer(transaction.transactional_id, transaction.producer_epoch)
        self._check_membership(group, membership)
        transaction.offsets.setdefault(group, {}).update(offsets)

    def commit(self, transaction: BrokerTransaction) -> None:
        self._check_producer(transaction.transactional_id, transaction.producer_epoch)
        for group, offsets in transaction.offsets.items():
            self._group(group).offsets.update(offsets)
        self._finish(transaction, TransactionState.COMMITTED)

    def abort(self, transaction: BrokerTransaction) -> None:
        if transaction.state is TransactionState.OPEN:
            self._finish(transaction, TransactionState.ABORTED)

    def commit_offsets(self, group: str, membership: Membership, offsets: Mapping[Partition, int]) -> None:
        """Commit outside of any transaction."""
        self._check_membership(group, membership)
        self._group(group).offsets.update(offsets)

    def committed_offset(self, group: str, partition: Partition) -> int | None:
        return self._group(group).offsets.get(partition)

    def pending(self, group: str, partition: Partition) -> bool:
        """Whether an open transaction holds an offset for this partition."""
        return any(partition in transaction.offsets.get(group, ()) for transaction in self._open.values())

    # Inside

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def _rebalance(self, group: _Group) -> None:
        topics = sorted({topic for member in group.members for topic in member.topics})
        group.rebalance([Partition(topic, number) for topic in topics for number in range(self._topics[topic])])
        self.changed.notify_all()

    def _remove(self, group: _Group, member: Member) -> None:
        group.members = [other for other in group.members if other is not member]
        self._rebalance(group)

    def _place(self, message: Message) -> int:
        if message.partition is not None:
            return message.partition
        if message.key is None:
            self._next_unkeyed += 1
            return self._next_unkeyed % self._topics[message.topic]
        return zlib.crc32(message.key) % self._topics[message.topic]

    def _append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        transaction: BrokerTransaction | None,
    ) -> int:
        log = self._logs[partition]
        offset = log.end
        log.append(ReadRecord(*partition, offset, _now_ms(), key, value, headers), transaction)
        return offset

    def _finish(self, transaction: BrokerTransaction, state: TransactionState) -> None:
        transaction.state = state
        self._open.pop(transaction.transactional_id, None)
        for partition in transaction.partitions:
            self._logs[partition].mark(transaction)
        self.changed.notify_all()

    def _check_producer(self, transactional_id: str, producer_epoch: int) -> None:
        if not self.owns(transactional_id, producer_epoch):
            raise Unpublished("fenced", f"another producer took the transactional id {transactional_id!r}")

    def _check_membership(self, group: str, membership: Membership) -> None:
        if membership == NO_MEMBERSHIP:
            return
        state = self._group(group)
        if all(member.id != membership.member_id for member in state.members):
            raise Unpublished("membership", f"the group {group!r} does not know the member {membership.member_id!r}")
        if membership.generation != state.generation:
            raise Unpublished("membership", f"generation {membership.generation} is over, it is {state.generation}")


def _now_ms() -> int:
    return int(time.time() * 1000)


class TransactionState(enum.Enum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(eq=False, slots=True)
class BrokerTransaction:
    """One transaction of one producer. `offsets` are pending until it is committed."""

    transactional_id: str
    producer_epoch: int
    state: TransactionState = TransactionState.OPEN
    partitions: set[Partition] = field(default_factory=set)
    offsets: dict[str, dict[Partition, int]] = field(default_factory=dict)


class _Entry(NamedTuple):
    """The content of one offset: a record, a transaction's marker, or a part of an unreadable batch."""

    record: ReadRecord | None
    transaction: BrokerTransaction | None

    @property
    def aborted(self) -> bool:
        return self.transaction is not None and self.transaction.state is TransactionState.ABORTED


class Log:
    """One partition. Offsets are without gaps here; the gaps that readers see are markers and aborted records."""

    def __init__(self) -> None:
        self.start = 0
        self._entries: list[_Entry] = []
        self._first_open: dict[BrokerTransaction, int] = {}

    @property
    def end(self) -> int:
        return self.start + len(self._entries)

    @property
    def last_stable(self) -> int:
        """The first offset that a read_committed reader may not see yet."""
        return min(self._first_open.values(), default=self.end)

    def append(self, record: ReadRecord | None, transaction: BrokerTransaction | None) -> None:
        if transaction is not None:
            self._first_open.setdefault(transaction, self.end)
        self._entries.append(_Entry(record, transaction))

    def mark(self, transaction: BrokerTransaction) -> None:
        """Write the transaction's marker: its records are decided."""
        self._first_open.pop(transaction, None)
        self._entries.append(_Entry(None, transaction))

    def delete_below(self, offset: int) -> None:
        del self._entries[: max(0, offset - self.start)]
        self.start = max(self.start, offset)

    def compact(self) -> None:
        """Forget tombstones, and records that have a later one of their key."""
        records = [entry for entry in self._entries if entry.record is not None and not entry.aborted]
        last = {entry.record.key: entry for entry in records if entry.record is not None}
        kept = {id(entry) for entry in last.values() if entry.record is not None and entry.record.value is not None}
        self._entries = [entry if id(entry) in kept else _Entry(None, entry.transaction) for entry in self._entries]

    def committed_from(self, offset: int) -> list[ReadRecord]:
        entries = self._entries[max(0, offset - self.start) : self.last_stable - self.start]
        return [entry.record for entry in entries if entry.record is not None and not entry.aborted]
