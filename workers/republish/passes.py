"""Publishes groups of messages in transactions, in passes until nothing is left.

So it republishes newest outcomes that older records hide. Readers go by `version`, compaction goes by offset: the
newest outcome of a key must be its last record, or compaction could keep an older one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, groupby
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

import orjson

from schemas.enriched_image import read_output
from schemas.version import told_version
from workers.errors import Unpublished
from workers.pipeline.published import read_document, version_in
from workers.pipeline.rendering import fitting
from workers.ports import Publisher
from workers.tables import SortedRows
from workers.types import Message, Partition, ReadRecord, Transaction

_log = logging.getLogger(__name__)
_PASSES: Final = 5
"""The most passes. Another producer could cause one more after each pass."""

Group: TypeAlias = tuple[Message, ...]
"""Messages of one transaction."""


class Bounds(NamedTuple):
    """The limits of a transaction, and whether the run is stopped."""

    records: int
    bytes: int
    stopped: Callable[[], bool] = lambda: False


class Groups:
    """Publishes the groups of one pass."""

    def __init__(self, publisher: Publisher, bounds: Bounds, done: Callable[[list[Group]], object]) -> None:
        self._publisher, self._bounds, self._done = publisher, bounds, done
        self._groups: list[Group] = []
        self._records = self._bytes = 0
        self.published = False

    def add(self, group: Group) -> None:
        """Queue a group, and publish the queue if it is full. Raises Unpublished: a transaction failed."""
        size = sum(message.size for message in group)
        if self._records + len(group) > self._bounds.records or self._bytes + size > self._bounds.bytes:
            self.send()
        self._groups.append(group)
        self._records += len(group)
        self._bytes += size

    def send(self) -> None:
        """Publish the queue, unless the run is stopped; raises as `add`."""
        if self._groups and not self._bounds.stopped():
            self._publisher.publish(Transaction(tuple(chain.from_iterable(self._groups)), {}))
            self._done(self._groups)
            self._groups, self._records, self._bytes, self.published = [], 0, 0, True


def in_passes(
    add: Callable[[Groups], object], publisher: Publisher, bounds: Bounds, done: Callable[[list[Group]], object]
) -> None:
    """Repeat a pass until it publishes nothing, five times at most."""
    passes = 0
    while not bounds.stopped():
        groups = Groups(publisher, bounds, done)
        try:
            add(groups)
            groups.send()
        except Unpublished:
            publisher.recover()
            continue
        if not groups.published:
            break
        passes += 1
        if passes == _PASSES:
            _log.warning("others still write older outcomes of these images: run this again once they have ended")
            break


Spans: TypeAlias = Mapping[Partition, tuple[int, int]]
"""The first offset and the offset after the last, by partition."""
ReadTopic: TypeAlias = Callable[[Callable[[ReadRecord], None], Spans | None], None]
"""Reads committed records of the enriched topic, in order within each partition; without spans all up to the end.

Its first argument takes a record, and raises ValueError if it is foreign.
"""
_STALE: Final = "CREATE TABLE stale (place INT, at INT, PRIMARY KEY (place, at)) WITHOUT ROWID"
_KEEP: Final = "INSERT OR IGNORE INTO stale VALUES (?, ?)"
_BATCH: Final = 20_000
_NO_VERSION: Final = -1


class Stale(SortedRows):
    """Finds the hidden records."""

    def __init__(self) -> None:
        super().__init__("place INT, key INT, at INT, version INT, gone INT", "place, key, at", _STALE)
        self._topic = ""

    def take(self, record: ReadRecord) -> None:
        """Note a record of the enriched topic. Raises ValueError: it is no outcome."""
        if record.key is None:
            raise ValueError("no key")
        self._topic = record.topic
        version = told_version(record.headers)
        if version is None:
            version = _NO_VERSION if record.value is None else version_in(record.value)
        if version is not None:
            self.add((record.partition, hash(record.key), record.offset, version, record.value is None))

    def settle(self) -> dict[Partition, tuple[int, int]]:
        """Find the hidden records; returns their spans."""
        found: list[tuple[int, int]] = []
        for (place, _), group in groupby(self.sorted(), itemgetter(0, 1)):
            found += [(place, at) for at in _behind(group)]
            if len(found) >= _BATCH:
                self._write(_KEEP, found)
        self._write(_KEEP, found)
        spans = self._stored.execute("SELECT place, min(at), max(at) FROM stale GROUP BY place")
        return {Partition(self._topic, place): (first, last + 1) for place, first, last in spans}

    def __contains__(self, record: ReadRecord) -> bool:
        """Whether this record is hidden. Call it after `settle`."""
        place = record.partition, record.offset
        return self._stored.execute("SELECT 1 FROM stale WHERE place = ? AND at = ?", place).fetchone() is not None


def _behind(group: Iterable[tuple[int, ...]]) -> list[int]:
    """The newest record's offset if it is hidden; before a tombstone's its retraction's."""
    rows: list[tuple[int, int, int]] = []
    for _, _, at, version, gone in group:
        if version == _NO_VERSION:  # another producer's tombstone withdraws all earlier records
            rows.clear()
        else:
            rows.append((at, version, gone))
    if not rows or rows[-1][1] >= max(version for _, version, _ in rows):
        return []
    at, version, gone = max(rows, key=itemgetter(1, 0))
    retractions = [other for other, below, _ in rows if gone and other < at and below == version - 1]
    return [*retractions[-1:], at]


def repeat(record: ReadRecord) -> Message:
    """A copy of a record whose coordinates name that record. Raises ValueError: readers would refuse it."""
    headers = tuple([(name, value) for name, value in record.headers if value is not None])
    if record.value is None:
        return Message(record.topic, record.key, None, headers)
    read_output(record.value)
    document = read_document(record.value)
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset, "index": 0}
    document["event"] = {**document["event"], **place}
    return Message(record.topic, record.key, orjson.dumps(document), headers)


def publish_hidden(read: ReadTopic, publisher: Publisher, bounds: Bounds) -> int:
    """Republish hidden records in passes; returns their number."""
    published = 0

    def add(groups: Groups) -> None:
        with Stale() as stale:
            read(stale.take, None)

            def take(record: ReadRecord) -> None:
                if record in stale:
                    message = fitting(repeat(record), publisher.max_message_bytes[record.topic])
                    if message is not None:
                        groups.add((message,))

            if spans := stale.settle():
                read(take, spans)

    def done(groups: list[Group]) -> None:
        nonlocal published
        published += sum(map(len, groups))

    in_passes(add, publisher, bounds, done)
    return published
