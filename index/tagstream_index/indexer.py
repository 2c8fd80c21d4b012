"""From the enriched topic into the tables: polls, writes batches, and waits while the database is away."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from tagstream_index import left_out
from tagstream_index.database import Connection, connected, limited
from tagstream_index.merge import NO_ID, STAGING, Move, Moved, Spaces, write_records
from tagstream_index.outcomes import Passed, Row, read_record
from tagstream_index.settings import FOR_EVER, IndexSettings
from workers import metrics
from workers.assembly.clients import security, servers
from workers.assembly.topics import state_of
from workers.backends.kafka import KafkaRecordSource, extents
from workers.errors import Broken, Unavailable
from workers.types import Assignment, Partition, Record

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2
CHUNK_BYTES: Final = 4 << 20
"""A transaction with more bytes takes no further record."""
_PAUSE_S: Final = 0.5
"""Between two tries to reach the database."""
_FORGET_S: Final = 60.0
"""Between two calls of `forget_removed`."""
_FORGET: Final = (
    b"""delete from image where subject in (
        select subject from image where gone and changed_at < now() - make_interval(secs => %s) limit 10000)""",
    b"""delete from gone_version where document in (
        select document from gone_version where changed_at < now() - make_interval(secs => %s) limit 10000)""",
)

_ANEW: Final = "Run `tagstream index rebuild --go`: the tables serve until new ones take their place."


class Indexer:
    """Writes the enriched topic into the tables, as one group member. Belongs to the thread of `run`."""

    def __init__(self, settings: IndexSettings, source: KafkaRecordSource) -> None:
        self._settings = settings
        self._topic = settings.output_topic
        self._source = source
        self._connection: Connection | None = None
        self._spaces: Spaces | None = None
        self._forget_at = 0.0
        self._topic_id = ""
        self._most = settings.index_batch
        """Records of the next transaction: fewer after one that failed, as it may have taken too long."""
        self._writer = ThreadPoolExecutor(1, "write")
        self._fresh: deque[Assignment] = deque()
        self._pending: deque[Record] = deque()
        self._writing: tuple[Sequence[Record], Mapping[Partition, Move], Future[list[Row | Passed]]] | None = None
        self._stored: dict[Partition, int] = {}
        """The next offset of each started partition, as the tables have it."""
        self._started: dict[Partition, Assignment] = {}
        self._error: str | None = None
        self._try_at = 0.0
        self.turned_at = self._busy_at = time.monotonic()

    # Any thread

    def unready(self) -> str | None:
        """The reason why nothing is written now, if any."""
        if self._error is not None:
            return self._error
        return None if self._source.joined() else "the group is not joined"

    def idle_s(self) -> float:
        """Seconds since the last record or failure; 0 if records wait."""
        ours = [place for place, assignment in list(self._started.items()) if assignment.current]
        ends = self._source.ends()
        behind = any(ends.get(place, float("inf")) > self._stored[place] for place in ours)
        busy = behind or self.unready() or self._pending or self._fresh or self._writing
        return 0.0 if busy else time.monotonic() - self._busy_at

    def lag(self) -> Iterator[tuple[float, dict[str, str]]]:
        """Offsets of our partitions that are not in the tables, by topic."""
        stored = dict(self._stored)
        lags = [max(0, end - stored.get(place, end)) for place, end in self._source.ends().items()]
        yield float(sum(lags)), {"topic": self._topic}

    # The thread of `run`

    def run(self, stopping: Callable[[], bool]) -> None:
        """Index until `stopping` says so.

        Raises:
            Misconfigured: no tables, tables of another version, or no such topic.
            Broken: the topic was recreated, or lost records before they were indexed.
        """
        try:
            while not stopping():
                self.turn()
        finally:
            self.close()

    def turn(self) -> None:
        """Poll once and write the records."""
        polled = self._source.poll(POLL_S)
        self.turned_at = time.monotonic()
        self._fresh.extend(polled.started)
        self._pending.extend(polled.records)
        if polled.records or polled.started:
            self._busy_at = time.monotonic()
        if time.monotonic() < self._try_at:
            return
        try:
            self._work()
            if self._error is not None:
                self._settle()
        except Unavailable as error:
            self._wait(error)
            return
        if self._error is not None:
            logger.info("the index is written again")
            self._source.resume(list(self._stored))
        self._error = None

    def _work(self) -> None:
        if self._fresh:
            self._settle()
        while self._fresh:
            if self._fresh[0].current:
                self._start(self._connected(), self._fresh[0])
            self._fresh.popleft()
        idle = not self._pending
        while self._pending:
            self._connected()
            records = self._chunk()
            entries = [read_record(record) for record in records]
            if self._settle(behind=records):
                self._write(records, entries, whole=not self._pending)
        self._connected()
        if idle and self._settle():
            self._write([], [], whole=True)
        if time.monotonic() >= self._forget_at and self._settle():
            self._forget_at = time.monotonic() + _FORGET_S
            forget_removed(self._connected(), self._settings.index_forget_after)

    def _wait(self, error: Unavailable) -> None:
        """Pause all partitions; polled records stay in memory."""
        self.close()
        if self._error is None:
            logger.warning("the index is not written; trying again: %s", error)
        self._error = str(error)
        self._source.pause(list(self._stored))
        self._busy_at = time.monotonic()
        self._try_at = self._busy_at + _PAUSE_S
        metrics.RETRIES.add(dependency=error.dependency)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = connected(self._settings)
            with limited(self._connection):
                self._connection.execute(STAGING)
                self._spaces = Spaces(self._connection)
        return self._connection

    def close(self) -> None:
        """Finish the running write and close the connection; the next turn connects again."""
        with suppress(Unavailable):
            self._settle()
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _start(self, connection: Connection, assignment: Assignment) -> None:
        """Deliver a partition from the offset that the tables have."""
        place = assignment.partition
        self._topic_id = self._topic_id or state_of(self._settings, self._topic).id or NO_ID
        reach = extents(servers(self._settings), [self._topic], security=security(self._settings))[place]
        begin = """insert into progress as p (topic, partition, topic_id, next_offset) values (%s, %s, %s, %s)
            on conflict (topic, partition) do update set topic_id = p.topic_id returning topic_id, next_offset"""
        with limited(connection):
            ((topic_id, offset),) = connection.execute(begin, (*place, self._topic_id, reach.begin)).fetchall()
        if topic_id != self._topic_id:
            raise Broken(
                f"the topic {self._topic} was made anew since it was indexed: its id is {self._topic_id}, and the "
                f"tables are of {topic_id}. {_ANEW}"
            )
        if not reach.begin <= offset <= reach.end:
            raise Broken(
                f"{place} has the offsets {reach.begin} to {reach.end}, and {offset} is the next to index: records "
                f"were lost before they were read. {_ANEW}"
            )
        self._stored[place] = offset
        self._started[place] = assignment
        self._source.start(assignment, offset)

    def _chunk(self) -> list[Record]:
        """The next records of one transaction; records of ended assignments are dropped."""
        taken, size = list[Record](), 0
        while self._pending and len(taken) < self._most and size < CHUNK_BYTES:
            record = self._pending.popleft()
            if record.assignment.current:
                taken.append(record)
                size += record.size
        return taken

    def _write(self, records: Sequence[Record], entries: Sequence[Row | Passed], *, whole: bool) -> None:
        """Begin to write records and offsets in one transaction; `whole`: no polled record waits behind these."""
        if moves := self._moves(records, whole=whole):
            assert self._spaces is not None
            self._writing = records, moves, self._writer.submit(write_records, self._spaces, records, entries, moves)

    def _settle(self, behind: Sequence[Record] = ()) -> bool:
        """Wait for the running write; False: nothing was written, its records and those `behind` wait again."""
        if self._writing is None:
            return True
        (records, moves, writing), self._writing = self._writing, None
        try:
            entries = writing.result()
        except (Unavailable, Moved) as error:
            self._pending.extendleft(reversed([*records, *behind]))
            if isinstance(error, Unavailable):
                self._most = max(1, len(records) // 4)
                raise
            self._leave(error)
            return False
        finally:
            self.turned_at = self._busy_at = time.monotonic()
        self._most = min(2 * self._most, self._settings.index_batch)
        for place, move in moves.items():
            self._stored[place] = move.next
        for each in left_out.of_records(records, entries):
            logger.warning("passed over: %s", each)
        _count(entries)
        return True

    def _leave(self, moved: Moved) -> None:
        """Give up partitions that another indexer moved; the source renews our own."""
        logger.warning("%s; starting over there", moved)
        self.close()  # a rebuild may have swapped the tables, of which it knows
        for place in moved.partitions:
            del self._stored[place]
            self._started.pop(place).end()

    def _moves(self, records: Sequence[Record], *, whole: bool) -> dict[Partition, Move]:
        ends: dict[Partition, tuple[int, int | None]] = {}
        for record in records:
            ends[record.partition] = (record.next_offset, record.timestamp_ms)
        if whole:
            # Behind markers, and records that were aborted or compacted away.
            for place, position in self._source.positions().items():
                end, at_ms = ends.get(place, (self._stored.get(place, position), None))
                if position > end:
                    ends[place] = position, at_ms
        return {
            place: Move(self._topic_id, self._stored[place], max(end, self._stored[place]), at_ms)
            for place, (end, at_ms) in ends.items()
            if place in self._stored
        }


def forget_removed(connection: Connection, after_s: float) -> None:
    """Delete some rows of images that were removed so long ago. Raises as `limited`."""
    if after_s != FOR_EVER:
        with limited(connection):
            for statement in _FORGET:
                connection.execute(statement, (after_s,))


def _count(entries: Sequence[Row | Passed]) -> None:
    for kind, number in Counter("outcome" if isinstance(entry, Row) else entry.kind for entry in entries).items():
        metrics.INDEX_RECORDS.add(number, kind=kind)
    for flaw, number in Counter(flaw for entry in entries if isinstance(entry, Row) for flaw in entry.flaws).items():
        metrics.INDEX_FLAWS.add(number, kind=flaw)
