"""The ledger: outcomes finish in any order and leave in record order, together with their offsets.

Each partition in our hands has a lane, opened at the offset to read next. A record is admitted to its lane in offset
order, its outcomes are filled in whenever they are done, and `take` hands out what is done at the front of the
lanes. What was handed out stays until `settle` says that its commit is known; after a commit whose fate is unclear,
`rewind` drops what the broker counts as committed and leaves the rest to be taken again.

One lock guards it all; nothing here waits for anything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from schemas.dead_letter import Failure
from workers.pipeline.cache_entries import CacheWrite
from workers.vocabulary import Epoch, Headers, Message, Record, Run

Kind: TypeAlias = Literal["enriched", "partial", "retraction", "skip"]

_ENTRY_BYTES = 1_200
"""What an entry costs beside its messages: the record's objects, its job, what the cache is told."""
_JOB_BYTES = 4_000
"""What each further event of one message costs until its outcome is rendered."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An outcome as it will travel. The document that it was is let go: it takes five times the memory.

    Args:
        message: None where it goes nowhere.
        kind: what it is counted as once it is committed.
        reason: why it was skipped.
    """

    message: Message | None
    kind: Kind
    reason: str = ""

    @property
    def size(self) -> int:
        return self.message.size if self.message is not None else 0


@dataclass(slots=True, eq=False)
class Entry:
    """One record on its way through the line.

    `outcomes` has one item for each index that is done, `traces` the trace headers of those that have their own;
    `messages` is set once all indexes are done. `after_commit` holds what the cache is told when the commit is known.
    """

    record: Record
    taken_at: float
    expected: int | None = None
    outcomes: dict[int, tuple[Rendered | Failure, ...]] = field(default_factory=dict)
    traces: dict[int, Headers] = field(default_factory=dict)
    trace: Headers = ()
    """What an outcome without a trace of its own inherits from the record; bounded, and found out once."""
    input_key: Headers = ()
    """What every outcome inherits from the record's key; bounded."""
    messages: tuple[Message, ...] | None = None
    after_commit: list[CacheWrite] = field(default_factory=list)
    counted: int = 0
    """Bytes for which it counts in its ledger; before it has its messages, those of the indexes that are done."""

    @property
    def size(self) -> int:
        """Bytes with its messages, near enough for a bound."""
        return _ENTRY_BYTES + self.record.size + sum(message.size for message in self.messages or ())


@dataclass(frozen=True, slots=True)
class Taken:
    """A run and the entries that it publishes."""

    run: Run
    entries: tuple[Entry, ...]


class _Lane:
    """The records of one epoch, in offset order, that are not known to be committed."""

    __slots__ = ("committed", "entries", "epoch", "jobs", "read")

    def __init__(self, epoch: Epoch, committed: int) -> None:
        self.epoch = epoch
        self.committed = committed
        self.entries: deque[Entry] = deque()
        self.jobs = 0
        """Those of its entries; one that is not parsed yet counts as one."""
        self.read = 0
        """Those of its entries that are parsed."""

    def front(self) -> Iterable[Entry]:
        for entry in self.entries:
            if entry.messages is None:
                return
            yield entry


class Ledger:
    """See the module. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[Epoch, _Lane] = {}
        self._ready = threading.Condition(self._lock)
        self._bytes = 0
        self._records = 0

    def open(self, epoch: Epoch, offset: int) -> None:
        """Begin a lane whose next record is the first at or after `offset`."""
        with self._lock:
            self._lanes[epoch] = _Lane(epoch, offset)

    def close_ended(self) -> list[Epoch]:
        """Drop the lanes of ended epochs and say which."""
        with self._lock:
            ended = [epoch for epoch in self._lanes if not epoch.current]
            for epoch in ended:
                lane = self._lanes.pop(epoch)
                self._forget(lane, lane.entries)
            return ended

    def admit(self, record: Record, now: float) -> Entry | None:
        """Enter a record behind those of its lane. None: its epoch has no lane (any more).

        Raises:
            ValueError: the record does not come after those before it. Publishing would break the order.
        """
        with self._lock:
            lane = self._lanes.get(record.epoch)
            if lane is None:
                return None
            next_offset = lane.entries[-1].record.next_offset if lane.entries else lane.committed
            if record.offset < next_offset:
                raise ValueError(f"{record.partition}: offset {record.offset} came after {next_offset - 1}")
            entry = Entry(record, now)
            lane.entries.append(entry)
            lane.jobs += 1
            self._count(entry, entry.size)
            self._records += 1
            return entry

    def has_room(self, entry: Entry, max_jobs: int, max_bytes: int) -> bool:
        """Whether an admitted record may be parsed: whatever it holds, the bounds are exceeded by that alone.

        The first of a lane always may: the others of its partition wait for it.
        """
        with self._lock:
            lane = self._lanes.get(entry.record.epoch)
            if lane is None:
                return False
            return lane.entries[0] is entry or (lane.read < max_jobs and self._bytes < max_bytes)

    def expect(self, entry: Entry, jobs: int) -> None:
        """Say how many indexes the record's message holds, before the first of them completes."""
        with self._lock:
            entry.expected = jobs
            lane = self._lanes.get(entry.record.epoch)
            if lane is not None:
                lane.jobs += jobs - 1
                lane.read += jobs
                self._count(entry, entry.counted + (jobs - 1) * _JOB_BYTES)

    def complete(self, entry: Entry, index: int, outcomes: Sequence[Rendered | Failure]) -> bool:
        """Note what became of one index. True when it was the record's last: its messages can be rendered.

        Raises:
            ValueError: the index is done already, or there is no such index. The law would be broken.
        """
        with self._lock:
            if entry.expected is None or index in entry.outcomes or not 0 <= index < entry.expected:
                raise ValueError(f"{entry.record.partition}@{entry.record.offset}[{index}] completed twice or unasked")
            entry.outcomes[index] = tuple(outcomes)
            if entry.record.epoch in self._lanes:
                size = sum(outcome.size for outcome in outcomes if isinstance(outcome, Rendered))
                further = len(entry.outcomes) > 1
                self._count(entry, entry.counted + size - (_JOB_BYTES if further else 0))
            return len(entry.outcomes) == entry.expected

    def fill(self, entry: Entry, messages: Sequence[Message]) -> bool:
        """Set the record's messages: it may leave once all before it may. False: its epoch ended, it is dropped."""
        with self._lock:
            if entry.record.epoch not in self._lanes:
                return False
            entry.messages = tuple(messages)
            self._count(entry, entry.size)
            self._ready.notify_all()
            return True

    def refill(self, render: Callable[[Entry], Sequence[Message] | None]) -> None:
        """Render anew what has not left yet; `render` returns None for what may stay as it is."""
        with self._lock:
            for lane in self._lanes.values():
                for entry in lane.entries:
                    messages = render(entry) if entry.messages is not None else None
                    if messages is not None:
                        entry.messages = tuple(messages)
                        self._count(entry, entry.size)

    def wait(self, timeout_s: float) -> None:
        """Wait for `fill` or `wake`, at most this long."""
        with self._lock:
            if not any(self._front_is_ready(lane) for lane in self._lanes.values()):
                self._ready.wait(timeout_s)

    def wake(self) -> None:
        with self._lock:
            self._ready.notify_all()

    def take(self, max_messages: int, max_bytes: int) -> Taken | None:
        """What is done at the front of every current lane, up to the bounds (one record may exceed them alone).

        Taking changes nothing: until `settle` or `rewind` the same entries are taken again.
        """
        with self._lock:
            messages: list[Message] = []
            entries: list[Entry] = []
            offsets: dict[Epoch, int] = {}
            size = 0
            for lane in self._lanes.values():
                if not lane.epoch.current:
                    continue
                for entry in lane.front():
                    assert entry.messages is not None
                    entry_bytes = sum(message.size for message in entry.messages)
                    over = len(messages) + len(entry.messages) > max_messages or size + entry_bytes > max_bytes
                    if entries and over:
                        break
                    entries.append(entry)
                    messages.extend(entry.messages)
                    size += entry_bytes
                    offsets[lane.epoch] = entry.record.next_offset
            if not entries:
                return None
            return Taken(Run(tuple(messages), offsets), tuple(entries))

    def settle(self, taken: Taken) -> None:
        """The commit of this run is known: its entries leave. Lanes that took part go to the end of the row."""
        with self._lock:
            for epoch, offset in taken.run.offsets.items():
                lane = self._lanes.pop(epoch, None)
                if lane is not None:
                    self._drop_below(lane, offset)
                    self._lanes[epoch] = lane

    def rewind(self, epoch: Epoch, committed: int) -> list[Entry]:
        """The broker says that everything below `committed` is done: those entries leave, and are returned.

        An offset that this lane can't have produced means that somebody else has worked on the partition: the epoch
        ends here and now.
        """
        with self._lock:
            lane = self._lanes.get(epoch)
            if lane is None:
                return []
            ends = {entry.record.next_offset for entry in lane.front()}
            if committed != lane.committed and committed not in ends:
                epoch.end()
                return []
            return self._drop_below(lane, committed)

    def epochs(self) -> list[Epoch]:
        with self._lock:
            return list(self._lanes)

    def jobs_ahead(self, epoch: Epoch) -> int:
        """Jobs of this lane that are not committed. 0 for an unknown epoch."""
        with self._lock:
            lane = self._lanes.get(epoch)
            return lane.jobs if lane is not None else 0

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def records(self) -> int:
        return self._records

    def _front_is_ready(self, lane: _Lane) -> bool:
        return lane.epoch.current and bool(lane.entries) and lane.entries[0].messages is not None

    def _count(self, entry: Entry, size: int) -> None:
        self._bytes += size - entry.counted
        entry.counted = size

    def _drop_below(self, lane: _Lane, offset: int) -> list[Entry]:
        gone: list[Entry] = []
        while lane.entries and lane.entries[0].record.offset < offset:
            gone.append(lane.entries.popleft())
        lane.committed = max(lane.committed, offset)
        self._forget(lane, gone)
        return gone

    def _forget(self, lane: _Lane, entries: Iterable[Entry]) -> None:
        for entry in entries:
            lane.jobs -= entry.expected or 1
            lane.read -= entry.expected or 0
            self._count(entry, 0)
            self._records -= 1
