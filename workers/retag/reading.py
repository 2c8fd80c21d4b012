"""Finds each subject's newest outcome, for any number of subjects: rows in a temporary file, sorted once.

Each record is judged when it is read, so that nothing is read twice; of a subject the judgement of the newest counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self, cast

import numpy as np

from schemas.version import VERSION_MAX, Order, order_of, told_version
from workers.audit.tables import SortedRows
from workers.backends.kafka.types import ReadRecord
from workers.retag.carried import Vector
from workers.retag.judgement import Fields, Kind
from workers.retag.judging import Retagger, read_document
from workers.retag.page import Sample
from workers.retag.plan_file import VERDICTS, Planned, Verdict
from workers.retag.rescoring import PIECE

FILTERED: Final = Kind("filtered")
_PUBLISHED: Final = 1 << 54
"""Above any time in microseconds."""
_STATES: Final = ("enriched-image/1", "image-retraction/1")
_UNKNOWN = -1
"""The version of a tombstone that does not tell it: it withdraws what stands before it in its partition."""


class _Row(NamedTuple):
    """An outcome, or what withdraws one.

    Args:
        key: hash of the subject.
        removal: of the version `version_id` alone: such rows come last.
        tie: orders equal versions, as `schemas.version.Order` does; its last bit says that the object is gone.
        place: number of the partition.
        kind: number of the `Kind`.
        subject: of what is planned.
        version_id: that was read, or that is gone.
    """

    key: int
    removal: int
    version: int
    tie: int
    place: int
    at: int
    kind: int = 0
    bytes: int = 0
    subject: str | None = None
    version_id: str | None = None

    def withdraws(self, newest: _Row) -> bool:
        """Whether it takes back the newest outcome without ordering before it."""
        if self.removal:
            return self.version_id == newest.version_id
        return self.version == _UNKNOWN and self.place == newest.place and self.at > newest.at


def _newest(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """The row that says what each subject is now; whether it is gone. Rows are as `_Row` has them."""
    for _, group in groupby(rows, itemgetter(0)):
        others = iter(group)
        newest = next(others)
        yield newest, bool(newest[3] & 1) or any(_Row(*row).withdraws(_Row(*newest)) for row in others)


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

    def of(self, fate: str) -> dict[str, int]:
        """Subjects by reason, most first."""
        found = Counter[str]()
        for kind, count in self.counts.most_common():
            if kind.fate == fate:
                found[kind.reason] += count
        return dict(found.most_common())


class Newest:
    """Takes records in any order; then tells what became of each subject. Use it in a `with`."""

    def __init__(self) -> None:
        self._rows = SortedRows(
            "key INT, removal INT, version INT, tie INT, place INT, at INT, kind INT, bytes INT, subject, version_id",
            "key, removal, version DESC, tie DESC, at DESC",
        )
        self._planned = SortedRows("place INT, at INT, subject, version INT, kind INT, bytes INT", "place, at")
        self._kinds: dict[Kind, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._planned.__exit__(*error)
        self._rows.__exit__(*error)

    def __len__(self) -> int:
        """Number of rows to sort."""
        return self._rows.count

    def outcome(self, place: int, at: int, document: Fields, kind: Kind) -> None:
        """Take an enriched image that was judged."""
        order, subject, number = order_in(document), document["subject"], self._kinds.setdefault(kind, len(self._kinds))
        size, version_id = document["image"]["bytes"], document["source"]["version_id"]
        named = subject if kind.fate in VERDICTS else None
        key = hash(subject.encode())
        self._rows.add((key, 0, order.version, _tie(order), place, at, number, size, named, version_id))

    def retraction(self, place: int, at: int, document: Fields) -> None:
        """Take a retraction, of an object or of one version."""
        order, removal, key = order_in(document), document["scope"] == "version", hash(document["subject"].encode())
        version_id = document["source"]["version_id"] if removal else None
        self._rows.add(_Row(key, int(removal), order.version, _tie(order), place, at, version_id=version_id))

    def tombstone(self, place: int, at: int, subject: bytes, version: int | None) -> None:
        """Take a record without a value."""
        known = _UNKNOWN if version is None else version
        self._rows.add(_Row(hash(subject), 0, known, _tie(Order(known, True, 0, True)), place, at))

    def settle(self, advance: Callable[[int], object] = lambda _: None) -> Found:
        """Find out what becomes of each subject.

        Args:
            advance: as `SortedRows.sorted` has it.
        """
        found, kinds = Found(), list(self._kinds)
        counts, sizes = [0] * len(kinds), [0] * len(kinds)
        for newest, gone in _newest(self._rows.sorted(advance)):
            _, removal, version, _, place, at, kind, size, subject, _ = newest
            if removal:  # a removed version is all that is left of it
                continue
            if gone:
                found.gone += 1
                continue
            counts[kind] += 1
            sizes[kind] += size
            if subject is not None:
                self._planned.add((place, at, subject, version, kind, size))
        found.counts = Counter({kind: count for kind, count in zip(kinds, counts, strict=True) if count})
        found.bytes = Counter(dict(zip(kinds, sizes, strict=True)))
        found.planned = sum(count for kind, count in found.counts.items() if kind.fate in VERDICTS)
        return found

    def planned(self) -> Iterator[Planned]:
        """What is to be made anew, in order of partition and offset. After `settle`."""
        kinds = list(self._kinds)
        for place, at, subject, version, number, size in self._planned.sorted():
            fate, reason, _ = kinds[number]
            yield Planned(place, at, subject, version, cast(Verdict, fate), reason, size)


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


def version_in(value: bytes) -> int | None:
    """The version of an enriched image or a retraction.

    Returns:
        None: it is something else.

    Raises:
        ValueError: it is no outcome.
    """
    document = read_document(value)
    try:
        return order_in(document).version if document.get("schema") in _STATES else None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an outcome of another shape: {error!r}") from None


def _tie(order: Order) -> int:
    return (_PUBLISHED * order.published | order.produced_at) << 1 | order.gone


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

    def has(self, document: Fields, timestamp_ms: int) -> bool:
        """Whether it is one of these, but for the reasons."""
        if not document["subject"].startswith(self.prefix) or timestamp_ms < (self.since_ms or 0):
            return False
        model = document["models"]["tagger"]
        if self.tagger and not (model and model["digest"].startswith(self.tagger)):
            return False
        return not self.tags or any(tag["name"] in self.tags for tag in document["tags"])

    def of(self, kind: Kind) -> Kind:
        return kind if not self.reasons or self.reasons.intersection(kind.reason.split(",")) else FILTERED


class Reading:
    """Judges records of the enriched topic; vectors are scored some thousand together.

    Args:
        sample: gets outcomes that are made anew.
    """

    def __init__(self, judge: Retagger, newest: Newest, choice: OutcomeChoice, sample: Sample) -> None:
        self._judge = judge
        self._newest = newest
        self._choice = choice
        self._sample = sample
        self.records = 0
        self.late: list[tuple[ReadRecord, ValueError]] = []
        """Records that turned out to be no outcomes when they were scored with others."""
        self._pending: list[tuple[ReadRecord, Vector]] = []

    def take(self, record: ReadRecord) -> None:
        """
        Raises:
            ValueError: it is no outcome.
        """
        self.records += 1
        value = record.value
        if value is None:
            self._tombstone(record)
            return
        try:
            seen = None if self._choice.tags else self._judge.glance(value, record.headers)
            if seen is not None and not (seen[1].fate == "rescore" and self._sample.wants(seen[0]["subject"].encode())):
                self._add(record, *seen)
                return
            document = read_document(value)
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

    def flush(self) -> None:
        """Judge the outcomes that wait to be scored together. Call it in the end."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        tagger = self._judge.today.tagger
        assert tagger is not None
        scores = tagger.rescore(np.stack([vector for _, vector in pending]))
        for (record, _), header in zip(pending, scores, strict=True):
            try:
                self._judged(record, read_document(record.value or b""), header)
            except (KeyError, TypeError, AttributeError) as error:
                self.late.append((record, ValueError(f"an outcome of another shape: {error!r}")))
            except ValueError as error:
                self.late.append((record, error))

    def _outcome(self, record: ReadRecord, document: Fields) -> None:
        vector = self._judge.vector_of(document, record.headers)
        if vector is None:
            self._judged(record, document)
            return
        self._pending.append((record, vector))
        if len(self._pending) == PIECE:
            self.flush()

    def _judged(self, record: ReadRecord, document: Fields, rescored: bytes | None = None) -> None:
        judgement = self._judge.judge(document, record.headers, rescored=rescored)
        kind = self._add(record, document, judgement.kind)
        if judgement.made is not None and kind is not FILTERED:
            self._sample.take(document["subject"].encode(), judgement, (record.partition, record.offset))

    def _add(self, record: ReadRecord, document: Fields, kind: Kind) -> Kind:
        chosen = self._choice.has(document, record.timestamp_ms)
        kind = self._choice.of(kind) if chosen else FILTERED
        self._newest.outcome(record.partition, record.offset, document, kind)
        return kind

    def _tombstone(self, record: ReadRecord) -> None:
        """Of an object; that of a version's retraction has another key, in which no bucket has a question mark."""
        subject = record.key or b""
        if b"?" not in subject.partition(b"/")[0]:
            self._newest.tombstone(record.partition, record.offset, subject, told_version(record.headers))
