"""The ledger: a reorder buffer between finished outcomes and their transactions.

Each assignment has a queue of entries in offset order. An *entry* is one admitted record. `complete` stores the
outcomes of one of its events. After the last event, `fill` sets the entry's messages, and the entry is ready. `ready`
returns the ready entries at the front of all queues, for one transaction.

After the commit, `settle` drops these entries. After a failed transaction, `rewind` drops the entries that the broker
has committed, and `ready` returns the other entries again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.dead_letter import Failure
from workers.lanes import Precedence
from workers.pipeline.cache_entries import CacheWrite
from workers.types import (
    Assignment,
    Content,
    Coordinates,
    Headers,
    Message,
    OutcomeKind,
    Partition,
    Record,
    Transaction,
)

_ENTRY_BYTES = 1_200
"""Estimated bytes of an entry, besides its record and messages."""
_JOB_BYTES = 4_000
"""Estimated bytes of a record's second and each further event, until its outcome is rendered."""

_OUTCOME_BYTES = 16 << 20
"""Most bytes of one record's outcomes: 16 KiB for each of a thousand events."""
_BY_STORED, _BY_RECORD, _BY_EVENT, _BY_ADDED = 50, 64 << 10, 16 << 10, 1 << 20
"""A record's output is limited to 50 times its stored bytes, plus 64 KiB, plus 16 KiB for each event, plus 1 MiB for
each wanted result of an added kind."""
_OWN_BYTES, _FAILURE_BYTES = 6 << 10, 1 << 10
"""Bytes of that limit reserved for the headers of a dead letter, and for each of its failures."""


class Rendered(NamedTuple):
    """An outcome ready to publish.

    Args:
        reason: the reason of a skip; else empty.
        content: scores and words of an enriched image, for the drift metrics.
        tombstone: a record with a null value, published after the message.
    """

    message: Message | None
    kind: OutcomeKind
    reason: str = ""
    content: Content | None = None
    tombstone: Message | None = None

    @property
    def size(self) -> int:
        size = self.message.size if self.message is not None else 0
        return size if self.tombstone is None else size + self.tombstone.size


@dataclass(slots=True, eq=False)
class Entry:
    """One admitted record, with the outcomes of its events.

    Args:
        taken_at: monotonic seconds of the admission.
        repeats: records right after it that differ only in their keys. If it becomes a dead letter,
            so do they. Otherwise they get their own entry (`Ledger.split`).
        expected: the number of events in the record; None: it is not parsed.
        added: the number of results of added kinds that its events want.
        outcomes: the outcomes of each finished event, by index.
        traces: trace headers for the outcomes of an event, by index.
        trace: trace headers for the outcomes of all other events.
        tracestate: headers for the first outcome only.
        input_key: headers with the record's key, for the first outcome only.
        full: whether the outcomes reached their size limit; later outcomes are rejected.
        messages: the messages to publish; None: some events are not finished.
        after_commit: the cache writes to make after the commit.
        counted: bytes of this entry in the ledger's sum.
    """

    record: Record
    taken_at: float
    repeats: tuple[Record, ...] = ()
    expected: int | None = None
    added: int = 0
    outcomes: dict[int, tuple[Rendered | Failure, ...]] = field(default_factory=dict)
    traces: dict[int, Headers] = field(default_factory=dict)
    trace: Headers = ()
    tracestate: Headers = ()
    input_key: Headers = ()
    outcome_bytes: int = 0
    full: bool = False
    messages: tuple[Message, ...] | None = None
    after_commit: list[CacheWrite] = field(default_factory=list)
    counted: int = 0

    @property
    def size(self) -> int:
        records = sum([record.size for record in (self.record, *self.repeats)])
        return _ENTRY_BYTES + records + sum([message.size for message in self.messages or ()])

    @property
    def next_offset(self) -> int:
        """The offset to commit once the record is finished."""
        return (self.repeats or (self.record,))[-1].next_offset

    @property
    def may_cause(self) -> int:
        """Most bytes of the record's outcomes and dead letter together."""
        parsed = _BY_EVENT * (self.expected or 1) + _BY_ADDED * self.added
        return _BY_STORED * self.record.stored + _BY_RECORD + parsed

    @property
    def room(self) -> int:
        spared = _OWN_BYTES + _FAILURE_BYTES * ((self.expected or 1) + self.added)
        return min(_OUTCOME_BYTES, self.may_cause - spared) - self.outcome_bytes

    def where(self, index: int) -> Coordinates:
        return Coordinates(self.record.partition.topic, self.record.partition.number, self.record.offset, index)

    def take_outcomes(self, size: int) -> bool:
        """Count outcomes of this size; False: they and all later outcomes do not fit."""
        self.full |= size > self.room
        if not self.full:
            self.outcome_bytes += size
        return not self.full


@dataclass(frozen=True, slots=True)
class Publishable:
    """A transaction, its entries, and whether it reached its largest size.

    Args:
        background: its lane.
        awaits: the number of records in progress that may join it.
    """

    transaction: Transaction
    entries: tuple[Entry, ...]
    full: bool
    background: bool
    awaits: int


@dataclass(slots=True, eq=False)
class _PartitionQueue:
    """The uncommitted records of one assignment, in offset order."""

    assignment: Assignment
    committed: int
    entries: deque[Entry] = field(default_factory=deque)
    jobs: int = 0
    """Events in all entries; an unparsed entry counts as one event."""
    parsed: int = 0
    """Events in the parsed entries."""

    def front(self) -> Iterable[Entry]:
        """The ready entries before the first entry that is not ready."""
        for entry in self.entries:
            if entry.messages is None:
                return
            yield entry


class Ledger:
    """The reorder buffer between finished outcomes and their transactions. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[Assignment, _PartitionQueue] = {}
        self._ready = threading.Condition(self._lock)
        self._enough = threading.Condition(self._lock)
        self._empty = threading.Condition(self._lock)
        self._precedence = Precedence()
        self.bytes = 0
        self._background_bytes = 0
        self.records = 0
        self.under_way = 0
        """The number of entries that are not ready."""
        self._background_under_way = 0
        self._missing = 0
        """The number of messages for which `wait_for_more` still waits."""
        self._for_background = False
        """Whether they are to join a background transaction."""
        self._held = False

    def open(self, assignment: Assignment, offset: int) -> None:
        """Start the queue of an assignment; its records begin at `offset`."""
        with self._lock:
            self._queues[assignment] = _PartitionQueue(assignment, offset)

    def close_ended(self) -> list[Assignment]:
        with self._lock:
            ended = [assignment for assignment in self._queues if not assignment.current]
            for assignment in ended:
                queue = self._queues.pop(assignment)
                self._forget(queue, queue.entries)
            return ended

    def admit(self, record: Record, now: float, repeats: Sequence[Record] = ()) -> Entry | None:
        """Add a record at the end of its queue; None: its assignment has ended.

        Raises ValueError: the record's offset is not above all earlier offsets.
        """
        with self._lock:
            queue = self._queues.get(record.assignment)
            if queue is None:
                return None
            next_offset = queue.entries[-1].next_offset if queue.entries else queue.committed
            if record.offset < next_offset:
                raise ValueError(f"{record.partition}: offset {record.offset} came after {next_offset - 1}")
            entry = Entry(record, now, tuple(repeats))
            queue.entries.append(entry)
            self._enter(queue, entry, entry.size)
            return entry

    def split(self, entry: Entry) -> Entry | None:
        """Give the repeats of an entry their own entry; None: the assignment has ended."""
        with self._lock:
            queue = self._queues.get(entry.record.assignment)
            if queue is None:
                return None
            rest = Entry(entry.repeats[0], entry.taken_at, entry.repeats[1:])
            entry.repeats = ()
            queue.entries.insert(queue.entries.index(entry) + 1, rest)
            self._enter(queue, rest, entry.counted - entry.record.size)
            self._count(entry, entry.size)
            return rest

    def has_room(self, entry: Entry, max_jobs: int, max_bytes: int) -> bool:
        """Whether an admitted record may be parsed.

        The first record of a queue always may, because all other records of its partition wait for it.
        """
        assignment = entry.record.assignment
        with self._lock:
            queue = self._queues.get(assignment)
            if queue is None:
                return False
            if queue.entries[0] is entry:
                return True
        return queue.parsed < self.most_jobs(assignment, max_jobs) and not self.is_full(assignment, max_bytes)

    def most_jobs(self, assignment: Assignment, jobs_ahead: int) -> int:
        """Most events of this assignment. All background ones together have no more than it, but a share each."""
        if not assignment.background:
            return jobs_ahead
        with self._lock:
            jobs = {of: queue.jobs for of, queue in self._queues.items() if of.background}
        return max(1, jobs_ahead // max(1, len(jobs)), jobs.get(assignment, 0) + jobs_ahead - sum(jobs.values()))

    def is_full(self, assignment: Assignment, max_bytes: int) -> bool:
        """Whether the ledger has no room for more of this assignment. Background has half of it."""
        return self.bytes >= max_bytes or (assignment.background and self._background_bytes >= max_bytes // 2)

    def expect(self, entry: Entry, jobs: int) -> None:
        """Set the number of events of a parsed record."""
        with self._lock:
            entry.expected = jobs
            queue = self._queues.get(entry.record.assignment)
            if queue is not None:
                queue.jobs += jobs - 1
                queue.parsed += jobs
                self._count(entry, entry.counted + (jobs - 1) * _JOB_BYTES)

    def complete(self, entry: Entry, index: int, outcomes: Sequence[Rendered | Failure]) -> bool:
        """Store the outcomes of one event; True: all events of the record are finished.

        Raises ValueError: the event is finished already, or its index is unknown.
        """
        with self._lock:
            if entry.expected is None or index in entry.outcomes or not 0 <= index < entry.expected:
                raise ValueError(
                    f"{entry.record.partition}@{entry.record.offset}[{index}] completed twice, or not expected"
                )
            entry.outcomes[index] = tuple(outcomes)
            if entry.record.assignment in self._queues:
                size = sum(outcome.size for outcome in outcomes if isinstance(outcome, Rendered))
                further = len(entry.outcomes) > 1
                self._count(entry, entry.counted + size - (_JOB_BYTES if further else 0))
            return len(entry.outcomes) == entry.expected

    def fill(self, entry: Entry, messages: Sequence[Message]) -> bool:
        """Set the messages of a record; False: its assignment has ended."""
        return not self.fill_all([(entry, messages)])

    def fill_all(self, filled: Sequence[tuple[Entry, Sequence[Message]]]) -> list[Entry]:
        """`fill` several entries; returns those of ended assignments."""
        dropped: list[Entry] = []
        with self._lock:
            for entry, messages in filled:
                queue = self._queues.get(entry.record.assignment)
                if queue is None:
                    dropped.append(entry)
                    continue
                entry.messages = tuple(messages)
                self._count(entry, entry.size)
                self._left_progress(entry)
                self._missing -= len(messages)
                if queue.entries[0] is entry:
                    self._ready.notify_all()
                    if self._background_is_ready and not entry.record.assignment.background:
                        self._enough.notify_all()  # what waits for more is a background transaction
            if not self._awaited(self._for_background) or self._missing <= 0:
                self._enough.notify_all()
        return dropped

    def refill(self, render: Callable[[Entry], Sequence[Message] | None]) -> None:
        """Replace messages of ready entries; `render` returns None to keep them."""
        with self._lock:
            for queue in self._queues.values():
                for entry in queue.entries:
                    messages = render(entry) if entry.messages is not None else None
                    if messages is not None:
                        entry.messages = tuple(messages)
                        self._count(entry, entry.size)

    def wait(self, timeout_s: float) -> None:
        """Wait for a ready entry or for `wake`, at most this long."""
        with self._lock:
            if self._held or not any(self._front_is_ready(queue) for queue in self._queues.values()):
                self._ready.wait(timeout_s)

    def wait_for_more(self, timeout_s: float, messages: int, *, background: bool = False) -> None:
        """Wait for this many further messages, at most this long.

        It also returns after `wake`, and if no entry is in progress that may join it.

        Args:
            background: its lane.
        """
        with self._lock:
            self._missing, self._for_background = messages, background
            if self._awaited(background):
                self._enough.wait(timeout_s)

    def wait_until_empty(self, timeout_s: float) -> None:
        """Wait until all entries are committed or dropped, at most this long."""
        with self._lock:
            if self.records:
                self._empty.wait(timeout_s)

    def wake(self) -> None:
        with self._lock:
            self._ready.notify_all()
            self._enough.notify_all()

    def hold(self) -> None:
        """Make `ready` return None until `release`."""
        with self._lock:
            self._held = True

    def release(self) -> None:
        with self._lock:
            self._held = False
            self._ready.notify_all()

    def ready(self, max_messages: int, max_bytes: int) -> Publishable | None:
        """Return a transaction of ready entries of one lane; None: there are none, or after `hold`.

        Background entries have theirs while no live entry is ready, or in turn after some. A single entry may exceed
        the bounds. Until `settle` or `rewind`, the same entries are returned again.
        """
        with self._lock:
            if self._held:
                return None
            messages: list[Message] = []
            entries: list[Entry] = []
            offsets: dict[Assignment, int] = {}
            size = 0
            full = False
            lane = self._next_lane()
            for queue in self._queues.values():
                if not queue.assignment.current or queue.assignment.background is not lane:
                    continue
                for entry in queue.front():
                    assert entry.messages is not None
                    entry_bytes = sum(message.size for message in entry.messages)
                    exceeds = len(messages) + len(entry.messages) > max_messages or size + entry_bytes > max_bytes
                    if entries and exceeds:
                        full = True
                        break
                    entries.append(entry)
                    messages.extend(entry.messages)
                    size += entry_bytes
                    offsets[queue.assignment] = entry.next_offset
            if not entries:
                return None
            transaction = Transaction(tuple(messages), offsets)
            return Publishable(transaction, tuple(entries), full, lane, self._awaited(lane))

    def settle(self, ready: Publishable) -> None:
        """Drop the entries of a committed transaction.

        Its partitions get the last turns, so that `ready` starts with the others.
        """
        with self._lock:
            self._precedence.had_turn(background=ready.background, background_waits=self._background_is_ready)
            for assignment, offset in ready.transaction.offsets.items():
                queue = self._queues.pop(assignment, None)
                if queue is not None:
                    self._drop_below(queue, offset)
                    self._queues[assignment] = queue

    def rewind(self, assignment: Assignment, committed: int) -> list[Entry]:
        """Drop and return the entries before the broker's committed offset.

        If the offset has changed, but no entry ends at it, another worker has committed it. Then the assignment ends.
        """
        with self._lock:
            queue = self._queues.get(assignment)
            if queue is None:
                return []
            ends = {entry.next_offset for entry in queue.front()}
            if committed != queue.committed and committed not in ends:
                assignment.end()
                return []
            return self._drop_below(queue, committed)

    def assignments(self) -> list[Assignment]:
        with self._lock:
            return list(self._queues)

    def jobs_ahead(self, assignment: Assignment) -> int:
        with self._lock:
            queue = self._queues.get(assignment)
            return queue.jobs if queue is not None else 0

    def committed(self) -> dict[Partition, int]:
        with self._lock:
            return {assignment.partition: queue.committed for assignment, queue in self._queues.items()}

    def oldest(self) -> dict[Partition, Entry | None]:
        with self._lock:
            return {
                assignment.partition: queue.entries[0] if queue.entries else None
                for assignment, queue in self._queues.items()
            }

    def _next_lane(self) -> bool:
        """Whether the next transaction is a background one."""
        if not self._background_is_ready:
            return False
        live = any(self._front_is_ready(queue) for queue in self._queues.values() if not queue.assignment.background)
        return not live or self._precedence.background_is_next

    @property
    def _background_is_ready(self) -> bool:
        return any(queue.assignment.background and self._front_is_ready(queue) for queue in self._queues.values())

    def _front_is_ready(self, queue: _PartitionQueue) -> bool:
        return queue.assignment.current and bool(queue.entries) and queue.entries[0].messages is not None

    def _enter(self, queue: _PartitionQueue, entry: Entry, size: int) -> None:
        queue.jobs += 1
        self.records += 1
        self.under_way += 1
        self._background_under_way += queue.assignment.background
        self._count(entry, size)

    def _awaited(self, background: bool) -> int:
        """Entries in progress that a transaction of this lane waits for."""
        return self.under_way - (0 if background else self._background_under_way)

    def _left_progress(self, entry: Entry) -> None:
        self.under_way -= 1
        self._background_under_way -= entry.record.assignment.background

    def _count(self, entry: Entry, size: int) -> None:
        self.bytes += size - entry.counted
        if entry.record.assignment.background:
            self._background_bytes += size - entry.counted
        entry.counted = size

    def _drop_below(self, queue: _PartitionQueue, offset: int) -> list[Entry]:
        gone: list[Entry] = []
        while queue.entries and queue.entries[0].record.offset < offset:
            gone.append(queue.entries.popleft())
        queue.committed = max(queue.committed, offset)
        self._forget(queue, gone)
        return gone

    def _forget(self, queue: _PartitionQueue, entries: Iterable[Entry]) -> None:
        for entry in entries:
            queue.jobs -= entry.expected or 1
            queue.parsed -= entry.expected or 0
            self._count(entry, 0)
            self.records -= 1
            if entry.messages is None:
                self._left_progress(entry)
        if not self.records:
            self._empty.notify_all()
