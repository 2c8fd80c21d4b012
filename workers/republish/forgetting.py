"""Forgets subjects: publishes a retraction and tombstones for each, exactly once.

A key is forgotten once its last record in every partition is a tombstone, and no record has a higher version. So a new
run continues an interrupted one, and a second run publishes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby
from typing import Final, NamedTuple

from schemas.correction import read_correction
from schemas.enriched_image import EventRef, GoneSource, Retraction
from schemas.text import VERSION_MAX
from schemas.version import VERSION_HEADER, told_version
from workers.pipeline.published import version_in
from workers.ports import Publisher
from workers.rendition import NO_RENDITIONS, Rendition
from workers.republish.passes import Bounds, Group, Groups, in_passes
from workers.tables import TemporaryTables
from workers.types import Message, ReadRecord

SHA256: Final = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
"""The hash of the object's bytes in an enriched image or in a source entry of the cache."""
_ROWS: Final = 20_000
"""Rows in memory, some 10 MB, before they are stored."""
_TABLES: Final = """
PRAGMA cache_size = -32000;
CREATE TABLE records (subject TEXT, topic TEXT, key TEXT, place INT, at INT, version INT, kind INT);
CREATE TABLE contents (sha256 TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_KEEP: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"
_SORTED: Final = "SELECT * FROM records ORDER BY subject, topic, key, place, at"
_NEWEST: Final = "SELECT subject, max(version) FROM records GROUP BY subject"
_NO_VERSION: Final = -1
_TOMBSTONE, _OTHER, _OUTCOME = range(3)
"""Kinds of records: a tombstone; a record that is no state of an object; an enriched image or a retraction."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects to forget, by name or by prefix.

    Args:
        copies: the prefix of their renditions, which `rendition` makes; empty: none.
    """

    named: frozenset[str] = frozenset()
    prefix: str = ""
    copies: str = ""
    rendition: Rendition = NO_RENDITIONS

    def has(self, subject: str) -> bool:
        if subject in self.named or (self.prefix and subject.startswith(self.prefix)):
            return True
        return bool(self.copies) and subject.startswith(self.copies) and self.rendition.makes(*_parts(subject))

    def with_renditions(self, rendition: Rendition) -> Subjects:
        """These subjects, and the renditions of them."""
        found = [rendition.place(*_parts(each)) for each in self.named]
        named = self.named | {"/".join(place) for place in found if place is not None}
        return Subjects(named, self.prefix, rendition.prefix(*_parts(self.prefix)), rendition)

    def in_store(self, name: str) -> list[str]:
        """The objects to remove before this subject: its own and its rendition; none for a rendition beside it."""
        place = self.rendition.place(*_parts(name))
        return ([name] if name.startswith(self.prefix) else []) + ([] if place is None else ["/".join(place)])


def _parts(name: str) -> tuple[str, str]:
    bucket, _, key = name.partition("/")
    return bucket, key


class _SubjectRow(NamedTuple):
    subject: str
    topic: str
    key: str
    place: int
    at: int
    version: int
    kind: int


class Forgetting(TemporaryTables):
    """Takes records of both topics, and finds the messages that are due."""

    def __init__(self, chosen: Subjects, corrections: str = "") -> None:
        super().__init__(_TABLES, "records can't be sorted")
        self._chosen = chosen
        self._corrections = corrections
        self._rows: list[_SubjectRow] = []
        self._contents: list[tuple[str]] = []
        self.subjects = 0
        """Number of chosen subjects with records, at the last call of `due`."""

    def take(self, record: ReadRecord) -> None:
        """Note a record of the enriched topic."""
        key = _text(record.key)
        bucket, slash, rest = key.partition("/")
        subject = bucket.partition("?")[0] + slash + rest  # the key of a version has `?versionId=V` after the bucket
        if not self._chosen.has(subject):
            return
        version, kind = told_version(record.headers), _TOMBSTONE if record.value is None else _OTHER
        if record.value is not None:
            with suppress(ValueError):
                state = version_in(record.value)
                version, kind = (version, _OTHER) if state is None else (state, _OUTCOME)
            self.note_contents(SHA256.findall(record.value))
        self._add(record, subject, key, kind, _NO_VERSION if version is None else version)

    def take_correction(self, record: ReadRecord) -> None:
        """Note a record of the corrections topic. Raises ValueError: it is no correction."""
        subject = _text(record.key) if record.value is None else read_correction(record.value).subject
        if self._chosen.has(subject):
            self._add(record, subject, subject, _TOMBSTONE if record.value is None else _OTHER)

    def due(self) -> Iterator[tuple[str, Group]]:
        """Each subject to forget, with its messages."""
        self._store()
        self.subjects = 0
        rows = map(_SubjectRow._make, self._stored.execute(_SORTED))
        for subject, records in groupby(rows, lambda row: row.subject):
            keys = groupby(records, lambda row: (row.topic, row.key))
            messages = tuple(chain.from_iterable([self._of_key(group) for _, group in keys]))
            self.subjects += 1
            if messages:
                yield subject, messages

    def newest(self) -> Iterator[tuple[str, int]]:
        """Each subject with its highest version; -1: unknown."""
        self._store()
        yield from self._stored.execute(_NEWEST)

    def count(self, messages: Group) -> Counter[str]:
        """Count the messages of one subject by kind."""
        tombstone = {True: "withdrawals", False: "tombstones"}
        kinds = [tombstone[m.topic == self._corrections] if m.value is None else "retractions" for m in messages]
        return Counter([*kinds, "due"])

    def note_contents(self, contents: Iterable[bytes]) -> None:
        """Note contents of chosen subjects, by their SHA-256 in hex."""
        self._contents += [(sha256.decode(),) for sha256 in contents]

    def has_content(self, sha256: str) -> bool:
        """Whether a chosen subject has or had this content."""
        if self._contents:
            self._store()
        return self._stored.execute("SELECT 1 FROM contents WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def _of_key(self, group: Iterator[_SubjectRow]) -> list[Message]:
        """The messages that forget one key; empty if it is forgotten."""
        newest: _SubjectRow | None = None
        top = gone = _NO_VERSION
        last: dict[int, _SubjectRow] = {}
        for row in group:
            last[row.place] = row
            top = max(top, row.version)
            if row.kind == _TOMBSTONE:
                gone = max(gone, row.version)
            elif row.kind == _OUTCOME and (newest is None or (row.version, row.at) >= (newest.version, newest.at)):
                newest = row
        if gone == top and all(each.kind == _TOMBSTONE for each in last.values()):
            return []
        retraction = None
        if newest is not None and newest.key == newest.subject:
            top = min(top + 1, VERSION_MAX)
            retraction = _retraction(newest, top)
        headers = () if row.topic == self._corrections else _told(min(top + 1, VERSION_MAX))
        tombstones = [Message(row.topic, row.key.encode(), None, headers, place) for place in last]
        return tombstones if retraction is None else [retraction, *tombstones]

    def _add(self, record: ReadRecord, subject: str, key: str, kind: int, version: int = _NO_VERSION) -> None:
        self._rows.append(_SubjectRow(subject, record.topic, key, record.partition, record.offset, version, kind))
        if len(self._rows) >= _ROWS:
            self._store()

    def _store(self) -> None:
        self._write(_KEEP, self._rows)
        self._write("INSERT OR IGNORE INTO contents VALUES (?)", self._contents)


def _text(key: bytes | None) -> str:
    """A record's key as text; empty if it is no text."""
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return ""


def _retraction(newest: _SubjectRow, version: int) -> Message | None:
    """The retraction of a subject's newest record; None: no object can have this name."""
    bucket, _, key = newest.subject.partition("/")
    name = f"{newest.topic}:{newest.place}:{newest.at}:0"
    try:
        gone = Retraction(
            subject=newest.subject,
            document_id=newest.subject,
            version=version,
            event=EventRef(id=name, topic=newest.topic, partition=newest.place, offset=newest.at, index=0),
            source=GoneSource(bucket=bucket, key=key),
            produced_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
    except ValueError:
        return None
    return Message(newest.topic, gone.message_key, gone.to_bytes(), _told(version), newest.place)


def _told(version: int) -> tuple[tuple[str, bytes], ...]:
    return ((VERSION_HEADER, b"%d" % version),)


def forget(
    forgetting: Forgetting,
    read: Callable[[], object],
    publisher: Publisher,
    bounds: Bounds,
    told: Callable[[int], object] = lambda _: None,
) -> Counter[str]:
    """Forget the chosen subjects, in passes until nothing is left; returns counts of messages by kind.

    Args:
        read: passes new records of the topics to `forgetting`. Create the publisher before the first call, because its
            transactional id ends the open transactions of an earlier run.
        told: called with the number of subjects that were just committed.
    """
    counts = Counter[str]()

    def add(groups: Groups) -> None:
        read()
        for _, messages in forgetting.due():
            if bounds.stopped():
                break
            groups.add(messages)

    def done(groups: list[Group]) -> None:
        for messages in groups:
            counts.update(forgetting.count(messages))
        told(len(groups))

    in_passes(add, publisher, bounds, done)
    return counts
