"""Which events have been answered, for any number of records in a bounded part of memory.

A byte for each offset, in chunks; those that were not touched for long lie compressed in a temporary database. What
needs more than a byte (a message of several events) stands beside the bytes of its chunk.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, Self

from pydantic_core import from_json

from workers.audit.claims import Kind
from workers.errors import Misconfigured

CHUNK: Final = 1 << 14
CHUNKS: Final = 1_024
"""Chunks in memory: 16 MB."""
SEVERAL: Final = 100_000
"""Records of several events in memory, some 30 MB; 60 MB where each has a thousand. One chunk may exceed it alone."""

KEYS: Final = 100_000
"""Keys in memory, some 20 MB, before they are stored."""

_NONE, _WHOLE, _FAILED, _PARTIAL, _PAIRED, _RECORD, _MANY = range(7)
_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -16000;
CREATE TABLE chunks (place INT, number INT, states BLOB, many TEXT, PRIMARY KEY (place, number));
CREATE TABLE keys (hash INT, place INT, newest INT, PRIMARY KEY (hash, place)) WITHOUT ROWID;
"""
_KEEP_NEWEST: Final = (
    "INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT (hash, place) DO UPDATE SET newest = max(newest, excluded.newest)"
)

_ONE: Final[Mapping[tuple[int, Kind], int]] = {
    (_NONE, "whole"): _WHOLE,
    (_NONE, "failed"): _FAILED,
    (_NONE, "partial"): _PARTIAL,
    (_NONE, "record"): _RECORD,
    (_FAILED, "partial"): _PAIRED,
    (_PARTIAL, "failed"): _PAIRED,
}
"""What a byte becomes by an outcome of the first event alone; what is not here comes again."""


class Answers:
    """What was seen of one record: for each kind of outcome a bit for each index."""

    __slots__ = ("dead_letter", "failed", "partial", "record", "whole")

    def __init__(
        self, whole: int = 0, partial: int = 0, failed: int = 0, record: bool = False, dead_letter: bool = False
    ) -> None:
        self.whole = whole
        self.partial = partial
        self.failed = failed
        self.record = record
        self.dead_letter = dead_letter

    @classmethod
    def by(cls, state: int) -> Self:
        return cls(
            whole=int(state == _WHOLE),
            partial=int(state in (_PARTIAL, _PAIRED)),
            failed=int(state in (_FAILED, _PAIRED)),
            record=state == _RECORD,
            dead_letter=state in (_FAILED, _PAIRED),
        )

    @property
    def any(self) -> bool:
        return self.record or bool(self.whole | self.partial | self.failed)

    def add(self, kind: Kind, events: int) -> bool:
        """Note an outcome. True: some of it was answered before; only the rest of it is noted."""
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
        """A bit for each of so many events that lacks an outcome, or the dead letter that belongs to a partial one."""
        if self.record:
            return 0
        return ((1 << events) - 1) & ~(self.whole | self.failed)

    def beyond(self, events: int) -> int:
        """A bit for each event that was answered and that the message does not have."""
        return 0 if self.record else (self.whole | self.partial | self.failed) >> events << events


class _Chunk:
    __slots__ = ("many", "states")

    def __init__(self, states: bytearray, many: dict[int, Answers]) -> None:
        self.states = states
        self.many = many

    def dumped(self) -> tuple[bytes, str]:
        many = {at: (a.whole, a.partial, a.failed, a.record, a.dead_letter) for at, a in self.many.items()}
        return zlib.compress(self.states, 1), json.dumps(many)

    @classmethod
    def loaded(cls, states: bytes, many: str) -> Self:
        answers = {int(at): Answers(*told) for at, told in from_json(many).items()}
        return cls(bytearray(zlib.decompress(states)), answers)


class Seen:
    """The outcomes of all partitions, each known here by a number. Use it in a `with`, or `close` it."""

    def __init__(self, chunks: int = CHUNKS, several: int = SEVERAL) -> None:
        self._most, self._most_several = chunks, several
        self._chunks: OrderedDict[tuple[int, int], _Chunk] = OrderedDict()
        self._several = 0
        self._last: tuple[int, int] = (-1, -1)
        self._chunk = _Chunk(bytearray(), {})
        # Without a name: a file that SQLite removes by itself.
        self._stored = sqlite3.connect("", isolation_level=None)
        self._stored.executescript(_TABLES)
        self._keys: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """
        Raises:
            Misconfigured: the temporary file could not be written.
        """
        self.close()
        if isinstance(error, sqlite3.Error):
            raise Misconfigured(
                f"what was seen can't be kept in a temporary file ({error}): let TMPDIR name a folder with room"
            ) from error

    @property
    def held(self) -> tuple[int, int]:
        """Chunks, and records of several events, that are in memory."""
        return len(self._chunks), self._several

    def add(self, place: int, offset: int, kind: Kind, events: int) -> bool:
        """Note an outcome. True: some of it was answered before."""
        number, at = divmod(offset, CHUNK)
        chunk = self._at(place, number)
        state = chunk.states[at]
        if events == 1 and state != _MANY:
            after = _ONE.get((state, kind))
            if after is not None:
                chunk.states[at] = after
            return after is None
        answers = chunk.many.get(at)
        if answers is None:
            answers = chunk.many[at] = Answers.by(state)
            chunk.states[at] = _MANY
            self._several += 1
        return answers.add(kind, events)

    def answered(self, place: int, offset: int) -> bool:
        """Whether it has one event, which has its outcome, as almost all have. False says nothing."""
        number, at = divmod(offset, CHUNK)
        return self._at(place, number).states[at] in (_WHOLE, _FAILED, _PAIRED)

    def of(self, place: int, offset: int) -> Answers:
        """What was seen of a record."""
        number, at = divmod(offset, CHUNK)
        chunk = self._at(place, number)
        state = chunk.states[at]
        return chunk.many[at] if state == _MANY else Answers.by(state)

    def between(self, place: int, first: int, end: int, most: int) -> list[int]:
        """The offsets from `first` on and below `end` of which anything was seen; at most so many."""
        found: list[int] = []
        for number in self._touched(place, first // CHUNK, (end - 1) // CHUNK):
            base = number * CHUNK
            begin, until = max(first - base, 0), min(end - base, CHUNK)
            part = self._at(place, number).states[begin:until]
            if part.count(0) < len(part):
                found += [base + begin + step for step, state in enumerate(part) if state]
            if len(found) >= most:
                return found[:most]
        return found

    def note_key(self, key: bytes, place: int, offset: int) -> None:
        """An outcome with this key answers the record at `offset`."""
        entry = hash(key), place
        self._keys[entry] = max(offset, self._keys.get(entry, 0))
        if len(self._keys) >= KEYS:
            self._store_keys()

    def superseded(self, key: bytes, place: int, offset: int) -> bool:
        """Whether a compacted topic had reason to drop an outcome with this key: one that may be newer is there."""
        self._store_keys()
        rows = self._stored.execute("SELECT place, newest FROM keys WHERE hash = ?", (hash(key),))
        return any(other != place or newest >= offset for other, newest in rows)

    def _store_keys(self) -> None:
        if self._keys:
            rows = sorted((*entry, newest) for entry, newest in self._keys.items())
            self._stored.execute("BEGIN")
            self._stored.executemany(_KEEP_NEWEST, rows)
            self._stored.execute("COMMIT")
            self._keys.clear()

    def _at(self, place: int, number: int) -> _Chunk:
        key = place, number
        if key == self._last:
            return self._chunk
        chunk = self._chunks.get(key)
        if chunk is None:
            self._make_room()
            chunk = self._chunks[key] = self._load(key)
            self._several += len(chunk.many)
        else:
            self._chunks.move_to_end(key)
        self._last, self._chunk = key, chunk
        return chunk

    def _touched(self, place: int, first: int, last: int) -> list[int]:
        """The chunks from `first` to `last` in which there may be anything, in order."""
        if first == last:
            return [first]
        query = "SELECT number FROM chunks WHERE place = ? AND number BETWEEN ? AND ?"
        stored = {number for (number,) in self._stored.execute(query, (place, first, last))}
        return sorted(stored | {number for of, number in self._chunks if of == place and first <= number <= last})

    def _load(self, key: tuple[int, int]) -> _Chunk:
        found = self._stored.execute("SELECT states, many FROM chunks WHERE place = ? AND number = ?", key).fetchone()
        return _Chunk(bytearray(CHUNK), {}) if found is None else _Chunk.loaded(*found)

    def _make_room(self) -> None:
        while len(self._chunks) >= self._most or (self._chunks and self._several > self._most_several):
            key, chunk = self._chunks.popitem(last=False)
            self._several -= len(chunk.many)
            if chunk.states.count(0) < CHUNK:
                self._stored.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", (*key, *chunk.dumped()))
        self._last = (-1, -1)
