"""Which events have outcomes: the latest in memory, all in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from workers.audit.claims import Kind
from workers.tables import TemporaryTables

RECORDS: Final = 100_000
"""Records in memory before they are stored, some 30 MB; 60 MB where each has a thousand events."""
LAST_OFFSET: Final = 2**63 - 1
KEYS: Final = 100_000
"""Keys in memory, some 20 MB, before they are stored."""

_TABLES: Final = """
PRAGMA cache_size = -64000;
CREATE TABLE answers (
    place INT, at INT, whole BLOB, partial BLOB, failed BLOB, record INT, dead_letter INT, PRIMARY KEY (place, at)
) WITHOUT ROWID;
CREATE TABLE origins (place INT, at INT, key INT, PRIMARY KEY (place, at)) WITHOUT ROWID;
CREATE TABLE keys (hash INT, place INT, newest INT, PRIMARY KEY (hash, place)) WITHOUT ROWID;
"""
_KEEP: Final = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)"
_FIND: Final = "SELECT whole, partial, failed, record, dead_letter FROM answers WHERE place = ? AND at = ?"
_BETWEEN: Final = "SELECT at FROM answers WHERE place = ? AND at BETWEEN ? AND ? ORDER BY at LIMIT ?"
_KEEP_NEWEST: Final = (
    "INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT (hash, place) DO UPDATE SET newest = max(newest, excluded.newest)"
)


@dataclass(slots=True, eq=False)
class Answers:
    """The outcomes of one record: for each kind a bit for each index."""

    whole: int = 0
    partial: int = 0
    failed: int = 0
    record: bool = False
    dead_letter: bool = False

    @property
    def any(self) -> bool:
        return self.record or bool(self.whole | self.partial | self.failed)

    def add(self, kind: Kind, events: int) -> bool:
        """Note an outcome; True if some of it was answered before."""
        had = self.whole | self.partial | self.failed
        again = self.record
        match kind:
            case "whole":
                again |= bool(had & events)
                self.whole |= events & ~had
            case "partial":
                again |= bool((self.whole | self.partial) & events)
                self.partial |= events & ~self.whole
            case "failed":
                again |= bool(self.whole & events) or self.dead_letter
                self.failed |= events & ~self.whole
                self.dead_letter |= bool(events & ~self.whole)
            case "record":
                again |= self.any
                self.record = not again or self.record
        return again

    def missing(self, events: int) -> int:
        """A bit for each event without its whole outcome."""
        if self.record:
            return 0
        return ((1 << events) - 1) & ~(self.whole | self.failed)

    def beyond(self, events: int) -> int:
        """A bit for each answered event that the message does not have."""
        return 0 if self.record else (self.whole | self.partial | self.failed) >> events << events


class Seen(TemporaryTables):
    """The outcomes of all partitions, by number."""

    def __init__(self, records: int = RECORDS) -> None:
        super().__init__(_TABLES, "what was seen can't be kept")
        self._most = records
        self._answers: dict[tuple[int, int], Answers] = {}
        self._is_stored = False
        self._keys: dict[tuple[int, int], int] = {}
        self._origins: list[tuple[int, int, int]] = []

    @property
    def held(self) -> int:
        """Number of records in memory."""
        return len(self._answers)

    def add(self, place: int, offset: int, kind: Kind, events: int) -> bool:
        """Note an outcome; True if some of it was answered before."""
        answers = self.of(place, offset)
        again = answers.add(kind, events)
        self._answers[place, offset] = answers
        if len(self._answers) >= self._most:
            self._store()
        return again

    def answered(self, place: int, offset: int) -> bool:
        """Whether its first event has its outcome and no other was answered. False says nothing."""
        answers = self.of(place, offset)
        return answers.whole | answers.failed == 1 and not answers.partial & ~1

    def of(self, place: int, offset: int) -> Answers:
        """The outcomes of a record."""
        found = self._answers.get((place, offset))
        if found is not None:
            return found
        row = self._stored.execute(_FIND, (place, offset)).fetchone() if self._is_stored else None
        if row is None:
            return Answers()
        whole, partial, failed, record, dead_letter = row
        return Answers(_number(whole), _number(partial), _number(failed), bool(record), bool(dead_letter))

    def between(self, place: int, first: int, end: int, most: int) -> list[int]:
        """Offsets with anything seen, from `first` and below `end`, at most `most`."""
        self._store()
        return [at for (at,) in self._stored.execute(_BETWEEN, (place, first, min(end - 1, LAST_OFFSET), most))]

    def note_key(self, key: bytes, place: int, offset: int) -> None:
        """An outcome with this key answers the record at `offset`."""
        entry = hash(key), place
        self._keys[entry] = max(offset, self._keys.get(entry, 0))
        if len(self._keys) >= KEYS:
            self._store_keys()

    def superseded(self, key: bytes, place: int, offset: int) -> bool:
        """Whether compaction may have dropped it for a newer outcome."""
        self._store_keys()
        rows = self._stored.execute("SELECT place, newest FROM keys WHERE hash = ?", (hash(key),))
        return any(other != place or newest >= offset for other, newest in rows)

    def note_origin(self, place: int, offset: int, key: bytes | None) -> None:
        """Note the record that an outcome was made from."""
        self._origins.append((place, offset, hash(key)))
        if len(self._origins) >= KEYS:
            self._store_origins()

    def origin_spans(self) -> dict[int, tuple[int, int]]:
        """The span of such records, by partition."""
        self._store_origins()
        rows = self._stored.execute("SELECT place, min(at), max(at) FROM origins GROUP BY place")
        return {place: (first, last + 1) for place, first, last in rows}

    def take_origin(self, place: int, offset: int, key: bytes | None) -> bool | None:
        """Whether such a record has its outcome's key, once; None: no outcome was made from it."""
        row = self._stored.execute("DELETE FROM origins WHERE place = ? AND at = ? RETURNING key", (place, offset))
        found = row.fetchone()
        return None if found is None else bool(found[0] == hash(key))

    def origins_left(self) -> Iterator[tuple[int, int]]:
        """Partition and offset of the records that were not taken."""
        return self._stored.execute("SELECT place, at FROM origins")

    def _store_origins(self) -> None:
        self._origins.sort()
        self._write("INSERT OR REPLACE INTO origins VALUES (?, ?, ?)", self._origins)

    def _store(self) -> None:
        if self._answers:
            rows = sorted(
                (*at, *map(_bytes, (a.whole, a.partial, a.failed)), a.record, a.dead_letter)
                for at, a in self._answers.items()
            )
            self._write(_KEEP, rows)
            self._answers.clear()
            self._is_stored = True

    def _store_keys(self) -> None:
        if self._keys:
            self._write(_KEEP_NEWEST, sorted((*entry, newest) for entry, newest in self._keys.items()))
            self._keys.clear()


def _bytes(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _number(stored: bytes) -> int:
    return int.from_bytes(stored, "little")
