"""The ledger: outcomes finish in any order and leave in record order, together with their offsets.

Each assigned partition has a queue, opened at the offset to read next. Records are admitted in offset order, and their
outcomes are filled in as they finish. `ready` returns the finished entries at the front of the queues; they stay until
`settle` drops them after their commit. After an unclear commit, `rewind` drops the entries that the broker has
committed, and `ready` returns the rest again.

One lock guards everything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from schemas.dead_letter import Failure
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
"""Bytes of an entry besides its messages: the record's objects, its job, its cache writes."""
_JOB_BYTES = 4_000
"""Bytes of each further event of one message until its outcome is rendered."""

_OUTCOME_BYTES = 16 << 20
"""Most bytes of one record's outcomes: 16 KiB for each of a thousand events."""
_BY_STORED, _BY_RECORD, _BY_EVENT = 50, 64 << 10, 16 << 10
"""Most bytes that a record may cause: a factor of its stored bytes, a sum for itself, and a sum for each event."""
_OWN_BYTES, _FAILURE_BYTES = 6 << 10, 1 << 10
"""Bytes of that limit reserved for a dead letter's own headers, and for each failure in it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An outcome ready to publish.

    Args:
        message: None if nothing is published.
        kind: its label in the metrics once it is committed.
        reason: why it was skipped.
        content: of an enriched image.
        tombstone: published after the message.
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
    """One record in the pipeline, with its repeats: equal records right after it.

    The repeats are dead-lettered together with it or get entries of their own (`Ledger.split`).

    `outcomes` has an item for each finished index, `traces` the indexes with their own trace headers. `messages` is set
    once all indexes are finished. `after_commit` holds the cache writes to make after the commit.
    """

    record: Record
    taken_at: float
    repeats: tuple[Record, ...] = ()
    expected: int | None = None
    outcomes: dict[int, tuple[Rendered | Failure, ...]] = field(default_factory=dict)
    traces: dict[int, Headers] = field(default_factory=dict)
    trace: Headers = ()
    """Trace headers of the record, for outcomes without their own; bounded."""
    tracestate: Headers = ()
    """Header for the record's first outcome alone; bounded."""
    input_key: Headers = ()
    """Headers that the first outcome inherits from the record's key; bounded."""
    outcome_bytes: int = 0
    full: bool = False
    """Whether the outcomes reached their limit of bytes; all further ones are refused."""
    messages: tuple[Message, ...] | None = None
    after_commit: list[CacheWrite] = field(default_factory=list)
    counted: int = 0
    """Bytes counted in the ledger; until `messages` is set, those of the finished indexes."""

    @property
    def size(self) -> int:
        """Approximate bytes, messages included."""
        records = self.record.size + sum(record.size for record in self.repeats)
        return _ENTRY_BYTES + records + sum(message.size for message in self.messages or ())

    @property
    def next_offset(self) -> int:
        """The offset to commit once the record is finished."""
        return (self.repeats or (self.record,))[-1].next_offset

    @property
    def may_cause(self) -> int:
        """Most bytes of the record's outcomes and dead letter together."""
        return _BY_STORED * self.record.stored + _BY_RECORD + _BY_EVENT * (self.expected or 1)

    @property
    def room(self) -> int:
        """Bytes left for further outcomes."""
        spared = _OWN_BYTES + _FAILURE_BYTES * (self.expected or 1)
        return min(_OUTCOME_BYTES, self.may_cause - spared) - self.outcome_bytes

    def where(self, index: int) -> Coordinates:
        """Coordinates of the event with this index."""
        return Coordinates(self.record.partition.topic, self.record.partition.number, self.record.offset, index)

    def take_outcomes(self, size: int) -> bool:
        """Whether outcomes of this size fit; after one refusal none do. Finish thread."""
        self.full |= size > self.room
        if not self.full:
            self.outcome_bytes += size
        return not self.full


@dataclass(frozen=True, slots=True)
class Publishable:
    """A transaction and its entries; `full` if it reached its largest size."""

    transaction: Transaction
    entries: tuple[Entry, ...]
    full: bool


class _PartitionQueue:
    """The uncommitted records of one assignment, in offset order."""

    __slots__ = ("assignment", "committed", "entries", "jobs", "read")

    def __init__(self, assignment: Assignment, committed: int) -> None:
        self.assignment = assignment
        self.committed = committed
        self.entries: deque[Entry] = deque()
        self.jobs = 0
        """Jobs of its entries; an unparsed entry counts as one."""
        self.read = 0
        """Jobs of its parsed entries."""

    def front(self) -> Iterable[Entry]:
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
        self._bytes = 0
        self._records = 0
        self._under_way = 0
        """Number of records without messages."""
        self._missing = 0
        """Messages still missing for the thread in `wait_for_more`."""
        self._held = False

    def open(self, assignment: Assignment, offset: int) -> None:
        """Begin an assignment's queue; its next record is the first at or after `offset`."""
        with self._lock:
            self._queues[assignment] = _PartitionQueue(assignment, offset)

    def close_ended(self) -> list[Assignment]:
        """Drop the queues of ended assignments and return them."""
        with self._lock:
            ended = [assignment for assignment in self._queues if not assignment.current]
            for assignment in ended:
                queue = self._queues.pop(assignment)
                self._forget(queue, queue.entries)
            return ended

    def admit(self, record: Record, now: float, repeats: Sequence[Record] = ()) -> Entry | None:
        """Add a record to its queue's end; None: its assignment has no queue.

        Args:
            repeats: equal records right after it.

        Raises:
            ValueError: the record's offset is not above the last one. Publishing would break the order.
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
        """Move an entry's repeats to a new entry; None: the assignment has ended."""
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
        """Whether the bounds let an admitted record be parsed.

        They always let a queue's first record: the rest of its partition waits for it.
        """
        with self._lock:
            queue = self._queues.get(entry.record.assignment)
            if queue is None:
                return False
            return queue.entries[0] is entry or (queue.read < max_jobs and self._bytes < max_bytes)

    def expect(self, entry: Entry, jobs: int) -> None:
        """Set how many indexes the record's message holds, before the first completes."""
        with self._lock:
            entry.expected = jobs
            queue = self._queues.get(entry.record.assignment)
            if queue is not None:
                queue.jobs += jobs - 1
                queue.read += jobs
                self._count(entry, entry.counted + (jobs - 1) * _JOB_BYTES)

    def complete(self, entry: Entry, index: int, outcomes: Sequence[Rendered | Failure]) -> bool:
        """Store one index's outcomes; True: the record is complete.

        Raises:
            ValueError: the index is finished already or unknown. The delivery invariant would be broken.
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
        """Set the record's messages, to publish in offset order; False: its assignment ended."""
        return not self.fill_all([(entry, messages)])

    def fill_all(self, filled: Sequence[tuple[Entry, Sequence[Message]]]) -> list[Entry]:
        """`fill` all entries in one step; returns the dropped entries."""
        dropped: list[Entry] = []
        with self._lock:
            for entry, messages in filled:
                queue = self._queues.get(entry.record.assignment)
                if queue is None:
                    dropped.append(entry)
                    continue
                entry.messages = tuple(messages)
                self._count(entry, entry.size)
                self._under_way -= 1
                self._missing -= len(messages)
                if queue.entries[0] is entry:
                    self._ready.notify_all()
            if not self._under_way or self._missing <= 0:
                self._enough.notify_all()
        return dropped

    def refill(self, render: Callable[[Entry], Sequence[Message] | None]) -> None:
        """Render uncommitted entries again; `render` returns None to keep an entry's messages."""
        with self._lock:
            for queue in self._queues.values():
                for entry in queue.entries:
                    messages = render(entry) if entry.messages is not None else None
                    if messages is not None:
                        entry.messages = tuple(messages)
                        self._count(entry, entry.size)

    def wait(self, timeout_s: float) -> None:
        """Wait until something is ready, or for `wake`, at most this long."""
        with self._lock:
            if self._held or not any(self._front_is_ready(queue) for queue in self._queues.values()):
                self._ready.wait(timeout_s)

    def wait_for_more(self, timeout_s: float, messages: int) -> None:
        """Wait for `messages` more, an idle ledger, `wake` or the timeout.

        Waking for each message would cost as much as the transaction itself.
        """
        with self._lock:
            self._missing = messages
            if self._under_way:
                self._enough.wait(timeout_s)

    def wait_until_empty(self, timeout_s: float) -> None:
        """Wait until every record is committed or dropped, at most this long."""
        with self._lock:
            if self._records:
                self._empty.wait(timeout_s)

    def wake(self) -> None:
        with self._lock:
            self._ready.notify_all()
            self._enough.notify_all()

    def hold(self) -> None:
        """Let `ready` return nothing until `release`. Earlier entries may be committed."""
        with self._lock:
            self._held = True

    def release(self) -> None:
        with self._lock:
            self._held = False
            self._ready.notify_all()

    def ready(self, max_messages: int, max_bytes: int) -> Publishable | None:
        """The finished records at the front of every queue, within the bounds.

        A single record may exceed the bounds. None if no record is finished, or between `hold` and `release`. Until
        `settle` or `rewind` the same entries are returned again.
        """
        with self._lock:
            if self._held:
                return None
            messages: list[Message] = []
            entries: list[Entry] = []
            offsets: dict[Assignment, int] = {}
            size = 0
            full = False
            for queue in self._queues.values():
                if not queue.assignment.current:
                    continue
                for entry in queue.front():
                    assert entry.messages is not None
                    entry_bytes = sum(message.size for message in entry.messages)
                    over = len(messages) + len(entry.messages) > max_messages or size + entry_bytes > max_bytes
                    if entries and over:
                        full = True
                        break
                    entries.append(entry)
                    messages.extend(entry.messages)
                    size += entry_bytes
                    offsets[queue.assignment] = entry.next_offset
            if not entries:
                return None
            return Publishable(Transaction(tuple(messages), offsets), tuple(entries), full)

    def settle(self, ready: Publishable) -> None:
        """Drop a committed transaction's entries; move its queues to the end."""
        with self._lock:
            for assignment, offset in ready.transaction.offsets.items():
                queue = self._queues.pop(assignment, None)
                if queue is not None:
                    self._drop_below(queue, offset)
                    self._queues[assignment] = queue

    def rewind(self, assignment: Assignment, committed: int) -> list[Entry]:
        """Drop and return the entries below the broker's committed offset.

        An offset that no entry ends at means that another worker has the partition: the assignment ends at once.
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
        """Uncommitted jobs of this assignment; 0 if it is unknown."""
        with self._lock:
            queue = self._queues.get(assignment)
            return queue.jobs if queue is not None else 0

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def records(self) -> int:
        return self._records

    @property
    def under_way(self) -> int:
        """Number of records without messages."""
        return self._under_way

    def committed(self) -> dict[Partition, int]:
        """Committed offset of each assigned partition."""
        with self._lock:
            return {assignment.partition: queue.committed for assignment, queue in self._queues.items()}

    def oldest(self) -> dict[Partition, Entry | None]:
        """First uncommitted record of each assigned partition, or None."""
        with self._lock:
            return {
                assignment.partition: queue.entries[0] if queue.entries else None
                for assignment, queue in self._queues.items()
            }

    def _front_is_ready(self, queue: _PartitionQueue) -> bool:
        return queue.assignment.current and bool(queue.entries) and queue.entries[0].messages is not None

    def _enter(self, queue: _PartitionQueue, entry: Entry, size: int) -> None:
        queue.jobs += 1
        self._records += 1
        self._under_way += 1
        self._count(entry, size)

    def _count(self, entry: Entry, size: int) -> None:
        self._bytes += size - entry.counted
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
            queue.read -= entry.expected or 0
            self._count(entry, 0)
            self._records -= 1
            self._under_way -= entry.messages is None
        if not self._records:
            self._empty.notify_all()
