"""Finds each subject's newest outcome, for any number of subjects: rows in a temporary file, sorted once.

Each record is judged when it is read, so that nothing is read twice; of a subject the judgement of the newest counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final, Literal, NamedTuple, TypeAlias

from schemas.version import VERSION_MAX, Order, microseconds, order_of, told_version
from workers.audit.tables import TemporaryTables
from workers.backends.kafka.types import ReadRecord
from workers.retag.judging import UNCHANGED as JUDGED_UNCHANGED
from workers.retag.judging import Fields, Judgement, NeedsImage, Rescored, Retagger, Stays, read_document
from workers.retag.plan_file import VERDICTS, Planned, Verdict
from workers.retag.shortcut import Recognised, Shortcut

Fate: TypeAlias = Verdict | Literal["unchanged", "stays", "filtered"]
"""What becomes of a subject that has an outcome."""


class Kind(NamedTuple):
    """What many subjects have in common.

    Args:
        reason: why it needs the image or stays, or what changes; empty: neither.
        embedded: its new event shows an embedding that the record carries.
    """

    fate: Fate
    reason: str = ""
    embedded: bool = False


UNCHANGED: Final = Kind("unchanged")
FILTERED: Final = Kind("filtered")

_ROWS = 20_000
"""Rows in memory, some 10 MB, before they are stored."""
_TABLES: Final = """
PRAGMA cache_size = -32000;
CREATE TABLE outcomes (
    subject TEXT, removal INT, version INT, tie INT, place INT, at INT, kind INT, bytes INT, version_id TEXT
);
CREATE TABLE planned (place INT, at INT, subject TEXT, version INT, kind INT, bytes INT);
"""
_KEEP: Final = "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SORTED: Final = "SELECT * FROM outcomes ORDER BY subject, removal, version DESC, tie DESC, at DESC"
_PLAN: Final = "INSERT INTO planned VALUES (?, ?, ?, ?, ?, ?)"
_PLANNED: Final = "SELECT * FROM planned ORDER BY place, at"
_UNKNOWN = -1
"""The version of a tombstone that does not tell it: it withdraws what stands before it in its partition."""


class _Row(NamedTuple):
    """An outcome, or what withdraws one.

    Args:
        removal: of the version `version_id` alone: such rows come last.
        tie: orders equal versions, as `schemas.version.Order` does; its last bit says that the object is gone.
        place: number of the partition.
        kind: number of the `Kind`.
        version_id: that was read, or that is gone.
    """

    subject: str
    removal: int
    version: int
    tie: int
    place: int
    at: int
    kind: int = 0
    bytes: int = 0
    version_id: str | None = None

    def withdraws(self, newest: _Row) -> bool:
        """Whether it takes back the newest outcome without ordering before it."""
        if self.removal:
            return self.version_id == newest.version_id
        return self.version == _UNKNOWN and self.place == newest.place and self.at > newest.at


def _newest(rows: Iterator[_Row]) -> _Row | None:
    """The row that says what a subject is now: an outcome, or that it is gone."""
    newest = next(rows)
    for row in rows:
        if row.withdraws(newest):
            return row._replace(tie=1)
    return None if newest.removal else newest


@dataclass(slots=True)
class Found:
    """What there is, counted by subject.

    Args:
        bytes: of the images of each kind.
        gone: subjects whose newest outcome was withdrawn.
    """

    counts: Counter[Kind] = field(default_factory=Counter)
    bytes: Counter[Kind] = field(default_factory=Counter)
    gone: int = 0
    planned: int = 0

    def of(self, fate: Fate) -> dict[str, int]:
        """Subjects by reason, most first."""
        found = Counter[str]()
        for kind, count in self.counts.most_common():
            if kind.fate == fate:
                found[kind.reason] += count
        return dict(found.most_common())


class Newest(TemporaryTables):
    """Takes records in any order; then tells what became of each subject. Use it in a `with`."""

    def __init__(self) -> None:
        super().__init__(_TABLES, "outcomes can't be sorted")
        self._rows: list[_Row] = []
        self._kinds: dict[Kind, int] = {}

    def outcome(self, place: int, at: int, document: Fields, kind: Kind) -> None:
        """Take an enriched image that was judged."""
        number = self._kinds.setdefault(kind, len(self._kinds))
        source = document["source"]
        order = order_in(document)
        size, version_id = document["image"]["bytes"], source["version_id"]
        self._add(_Row(document["subject"], 0, order.version, _tie(order), place, at, number, size, version_id))

    def unchanged(self, place: int, at: int, known: Recognised, kind: Kind) -> None:
        """Take an unchanged enriched image that was recognised."""
        number = self._kinds.setdefault(kind, len(self._kinds))
        tie = _tie(Order(known.version, True, microseconds(known.produced_at) or 0, False))
        self._add(_Row(known.subject, 0, known.version, tie, place, at, number))

    def retraction(self, place: int, at: int, document: Fields) -> None:
        """Take a retraction, of an object or of one version."""
        order = order_in(document)
        removal = document["scope"] == "version"
        version_id = document["source"]["version_id"] if removal else None
        self._add(_Row(document["subject"], int(removal), order.version, _tie(order), place, at, version_id=version_id))

    def tombstone(self, place: int, at: int, subject: str, version: int | None) -> None:
        """Take a record without a value."""
        known = _UNKNOWN if version is None else version
        self._add(_Row(subject, 0, known, _tie(Order(known, True, 0, True)), place, at))

    def settle(self) -> Found:
        """Find out what becomes of each subject."""
        self._store()
        found, kinds, planned = Found(), list(self._kinds), list[tuple[object, ...]]()
        rows = map(_Row._make, self._stored.execute(_SORTED))
        for _, group in groupby(rows, itemgetter(0)):
            newest = _newest(group)
            if newest is None:  # a removed version is all that is left of it
                continue
            if newest.tie & 1:
                found.gone += 1
                continue
            kind = kinds[newest.kind]
            found.counts[kind] += 1
            found.bytes[kind] += newest.bytes
            if kind.fate in VERDICTS:
                found.planned += 1
                planned.append((newest.place, newest.at, newest.subject, newest.version, newest.kind, newest.bytes))
                if len(planned) >= _ROWS:
                    self._write(_PLAN, planned)
        self._write(_PLAN, planned)
        return found

    def planned(self) -> Iterator[Planned]:
        """What is to be made anew, in order of partition and offset. After `settle`."""
        kinds = list(self._kinds)
        for place, at, subject, version, number, size in self._stored.execute(_PLANNED):
            fate, reason, _ = kinds[number]
            assert fate in ("rescore", "image")
            yield Planned(place, at, subject, version, fate, reason, size)

    def _add(self, row: _Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self._store()

    def _store(self) -> None:
        self._write(_KEEP, self._rows)


def order_in(document: Fields) -> Order:
    """What orders an enriched image or a retraction, by its fields.

    Raises:
        ValueError: the version is none.
    """
    version, gone = document.get("version"), document["schema"] == "image-retraction/1"
    if version is not None and not (type(version) is int and 0 <= version <= VERSION_MAX):
        raise ValueError("its version is no whole number")
    return order_of(
        version,
        document["produced_at"],
        last_modified=None if gone else document["source"]["last_modified"],
        event_time=document["event"]["time"],
        gone=gone,
    )


def _tie(order: Order) -> int:
    return (order.published << 54 | order.produced_at) << 1 | order.gone


@dataclass(frozen=True, slots=True)
class OutcomeChoice:
    """The outcomes that a plan is about; by default all.

    Args:
        prefix: of the subject, `bucket/key`.
        tagger: the beginning of its tagger's digest.
        tags: it shows one of these.
        since_ms: when its record was written, at the earliest.
        reasons: any of its reasons or changes.
    """

    prefix: str = ""
    tagger: str = ""
    tags: frozenset[str] = frozenset()
    since_ms: int | None = None
    reasons: frozenset[str] = frozenset()

    @property
    def by_subject(self) -> bool:
        """Whether `has` tells all."""
        return not (self.tagger or self.tags)

    def has(self, subject: str, timestamp_ms: int) -> bool:
        return subject.startswith(self.prefix) and timestamp_ms >= (self.since_ms or 0)

    def takes(self, document: Fields, timestamp_ms: int) -> bool:
        if not self.has(document["subject"], timestamp_ms):
            return False
        model = document["models"]["tagger"]
        if self.tagger and not (model and model["digest"].startswith(self.tagger)):
            return False
        return not self.tags or any(tag["name"] in self.tags for tag in document["tags"])

    def of(self, kind: Kind) -> Kind:
        return kind if not self.reasons or self.reasons.intersection(kind.reason.split(",")) else FILTERED


class Reading:
    """Judges the records of the enriched topic one by one.

    Args:
        sample: gets each outcome that is made anew, with its record's partition and offset.
    """

    def __init__(
        self,
        judge: Retagger,
        newest: Newest,
        choice: OutcomeChoice,
        sample: Callable[[Rescored, int, int], None] = lambda _made, _place, _at: None,
    ) -> None:
        self._judge = judge
        self._newest = newest
        self._choice = choice
        self._sample = sample
        self._shortcut = Shortcut(judge) if choice.by_subject else None
        self.records = 0

    def take(self, record: ReadRecord) -> None:
        """
        Raises:
            ValueError: it is no outcome.
        """
        self.records += 1
        if record.value is None:
            self._tombstone(record)
            return
        if self._shortcut is not None and (known := self._shortcut.unchanged(record.value, record.headers)):
            kind = self._choice.of(UNCHANGED) if self._choice.has(known.subject, record.timestamp_ms) else FILTERED
            self._newest.unchanged(record.partition, record.offset, known, kind)
            return
        document = read_document(record.value)
        try:
            match document.get("schema"):
                case "enriched-image/1":
                    self._outcome(record, document)
                case "image-retraction/1":
                    self._newest.retraction(record.partition, record.offset, document)
                case "skipped/1":
                    pass
                case _:
                    raise ValueError("no outcome of ours")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an outcome of another shape: {error!r}") from None

    def _outcome(self, record: ReadRecord, document: Fields) -> None:
        kind = FILTERED
        if self._choice.takes(document, record.timestamp_ms):
            judgement = self._judge.judge(document, record.headers)
            kind = self._choice.of(_kind(judgement))
            if isinstance(judgement, Rescored) and kind is not FILTERED:
                self._sample(judgement, record.partition, record.offset)
            if self._shortcut is not None and judgement is JUDGED_UNCHANGED:
                self._shortcut.learn(record.value or b"", document)
        self._newest.outcome(record.partition, record.offset, document, kind)

    def _tombstone(self, record: ReadRecord) -> None:
        """Of an object; that of a version's retraction has another key, in which no bucket has a question mark."""
        subject = (record.key or b"").decode(errors="replace")
        if "?" not in subject.partition("/")[0]:
            self._newest.tombstone(record.partition, record.offset, subject, told_version(record.headers))


def _kind(judgement: Judgement) -> Kind:
    match judgement:
        case Rescored(changes=changes, embedded=embedded):
            return Kind("rescore", ",".join(changes), embedded)
        case NeedsImage(reason=reason):
            return Kind("image", reason)
        case Stays(reason=stays):
            return Kind("stays", stays)
        case _:
            return UNCHANGED
