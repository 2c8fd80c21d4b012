"""Finds each subject's newest outcome and its fate.

Each record is remade when it is read. Its fate becomes a row in a temporary file, which is sorted once. The row of the
newest outcome counts for its subject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from schemas.enriched_image import reasons_in
from schemas.version import Order, told_version
from workers.models.dual.rescoring import PIECE
from workers.pipeline.published import WRONG_SHAPE, Fields, StoredOutcome, order_in, read_document
from workers.retag.changes import PlannedChanges
from workers.retag.plan_file import VERDICTS, Planned, Verdict
from workers.retag.remake import NeedsImage, New, Remade, Remaker, Stays
from workers.tables import SortedRows
from workers.types import ReadRecord


class Kind(NamedTuple):
    """A group of outcomes in the report.

    Args:
        fate: the planned change of the outcome.
        reason: why it needs the image or stays, or its changes, joined by commas; empty: neither.
        embedded: the new event shows an embedding from the record.
    """

    fate: Literal["rescore", "image", "unchanged", "stays", "filtered"]
    reason: str = ""
    embedded: bool = False


def kind_of(remade: Remade) -> Kind:
    match remade:
        case New(changes=changes, parts=parts):
            return Kind("rescore", ",".join(changes), parts.get("embedding") is not None)
        case NeedsImage(reason=needs):
            return Kind("image", needs)
        case Stays(reason=stays):
            return Kind("stays", stays)
        case _:
            return Kind("unchanged")


FILTERED: Final = Kind("filtered")
_PUBLISHED: Final = 1 << 54
"""Above any time in microseconds."""
_UNKNOWN = -1
"""The version of a tombstone without a version: it withdraws all earlier outcomes of its partition."""


class _OutcomeRow(NamedTuple):
    """An outcome, a retraction or a tombstone.

    Args:
        key: hash of the subject.
        removal: 1: a retraction of the version `version_id` alone. Such rows come last.
        tie: orders equal versions, as `schemas.version.Order` does. Its last bit says that the object is gone.
        place: number of the partition.
        at: offset.
        kind: number of the `Kind`.
        subject: only of planned records.
        version_id: of the object.
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

    def withdraws(self, newest: _OutcomeRow) -> bool:
        """Whether it withdraws the newest outcome, although it is older."""
        if self.removal:
            return self.version_id == newest.version_id
        return self.version == _UNKNOWN and self.place == newest.place and self.at > newest.at


def _newest(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """For each subject the newest row, and whether the subject is gone."""
    for _, group in groupby(rows, itemgetter(0)):
        others = iter(group)
        newest = next(others)
        yield newest, bool(newest[3] & 1) or any(_OutcomeRow(*row).withdraws(_OutcomeRow(*newest)) for row in others)


@dataclass(slots=True)
class Found:
    """Numbers of subjects.

    Args:
        counts: by kind.
        bytes: bytes of the images by kind.
        gone: subjects whose newest outcome was withdrawn.
        planned: subjects to remake.
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
    """Takes records in any order, and finds the newest of each subject. Use it in a `with`."""

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
        """Take an enriched image of this kind."""
        order, subject, number = order_in(document), document["subject"], self._kinds.setdefault(kind, len(self._kinds))
        size, version_id = document["image"]["bytes"], _version_id(document)
        if type(size) is not int or not 0 <= size < 2**63:
            raise ValueError("the image's size is no number of bytes")
        named = subject if kind.fate in VERDICTS else None
        key = hash(subject.encode())
        self._rows.add((key, 0, order.version, _tie(order), place, at, number, size, named, version_id))

    def retraction(self, place: int, at: int, document: Fields) -> None:
        """Take a retraction, of an object or of one version."""
        order, removal, key = order_in(document), document["scope"] == "version", hash(document["subject"].encode())
        version_id = _version_id(document) if removal else None
        self._rows.add(_OutcomeRow(key, int(removal), order.version, _tie(order), place, at, version_id=version_id))

    def tombstone(self, place: int, at: int, subject: bytes, version: int | None) -> None:
        """Take a record without a value."""
        known = _UNKNOWN if version is None else version
        self._rows.add(_OutcomeRow(hash(subject), 0, known, _tie(Order(known, True, 0, True)), place, at))

    def settle(self, advance: Callable[[int], object] = lambda _: None) -> Found:
        """Find the newest outcome of each subject.

        Args:
            advance: see `SortedRows.sorted`.
        """
        found, kinds = Found(), list(self._kinds)
        counts, sizes = [0] * len(kinds), [0] * len(kinds)
        for newest, gone in _newest(self._rows.sorted(advance)):
            _, removal, version, _, place, at, kind, size, subject, _ = newest
            if removal:  # the subject has no other rows
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
        """The records to remake, in order of partition and offset. Call it after `settle`."""
        kinds = list(self._kinds)
        for place, at, subject, version, number, size in self._planned.sorted():
            fate, reason, _ = kinds[number]
            yield Planned(place, at, subject, version, cast(Verdict, fate), reason, size)


def _version_id(document: Fields) -> str | None:
    version_id = document["source"]["version_id"]
    return None if version_id is None else str(version_id)  # unchecked: it may be of any type


def _tie(order: Order) -> int:
    return (_PUBLISHED * order.published | order.produced_at) << 1 | order.gone


@dataclass(frozen=True, slots=True)
class OutcomeChoice:
    """The filters of a plan; by default it has all outcomes.

    Args:
        prefix: the beginning of the subject, `bucket/key`.
        tagger: the beginning of the tagger's digest.
        tags: the outcome shows one of these tags.
        since_ms: the least timestamp of the record.
        reasons: the outcome has one of these reasons or changes, or is partial for one of these reasons.
        facts: outcomes without facts of their pictures need the image.
    """

    prefix: str = ""
    tagger: str = ""
    tags: frozenset[str] = frozenset()
    since_ms: int | None = None
    reasons: frozenset[str] = frozenset()
    facts: bool = False

    def of(self, document: Fields, timestamp_ms: int, kind: Kind) -> Kind:
        """The outcome's kind, or `FILTERED` if it does not pass."""
        if not document["subject"].startswith(self.prefix) or timestamp_ms < (self.since_ms or 0):
            return FILTERED
        model = document["models"]["tagger"]
        if self.tagger and not (model and model["digest"].startswith(self.tagger)):
            return FILTERED
        if self.tags and not any(tag["name"] in self.tags for tag in document["tags"]):
            return FILTERED
        passes = not self.reasons or not self.reasons.isdisjoint((*kind.reason.split(","), *reasons_in(document)))
        return kind if passes else FILTERED


@dataclass(eq=False)
class Planning:
    """Compares the outcomes of the enriched topic with the current settings.

    Vectors are scored some thousand at a time.

    Args:
        changes: gets the outcomes that change; None: they are not kept.
    """

    remaker: Remaker
    newest: Newest
    choice: OutcomeChoice
    changes: PlannedChanges | None = None
    records: int = 0
    late: list[tuple[ReadRecord, ValueError]] = field(default_factory=list)
    """Records that turned out to be no outcomes after their vectors were scored."""
    _pending: list[tuple[ReadRecord, NDArray[np.float16]]] = field(default_factory=list)

    def take(self, record: ReadRecord) -> None:
        """Take a record of the enriched topic. Raises ValueError: it is no outcome."""
        self.records += 1
        value = record.value
        if value is None:
            subject = record.key or b""
            if b"?" not in subject.partition(b"/")[0]:  # else it is of one version
                self.newest.tombstone(record.partition, record.offset, subject, told_version(record.headers))
            return
        document = read_document(value)
        try:
            match document.get("schema"):
                case "enriched-image/1":
                    self._outcome(record, StoredOutcome(document, record.headers))
                case "image-retraction/1":
                    self.newest.retraction(record.partition, record.offset, document)
                case "skipped/1":
                    pass
                case _:
                    raise ValueError("no outcome of ours")
        except WRONG_SHAPE as error:
            raise ValueError(f"an outcome of another shape: {error!r}") from None

    def flush(self) -> None:
        """Score the vectors that wait. Call it in the end."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        tagger = self.remaker.settings.tagger
        assert tagger is not None
        scores = tagger.rescore(np.stack([vector for _, vector in pending]))
        for (record, _), header in zip(pending, scores, strict=True):
            try:
                self._add(record, StoredOutcome(read_document(record.value or b""), record.headers), header)
            except (ValueError, *WRONG_SHAPE) as error:
                self.late.append((record, ValueError(f"an outcome of another shape: {error!r}")))

    def _outcome(self, record: ReadRecord, outcome: StoredOutcome) -> None:
        vector = self.remaker.vector_of(outcome)
        if vector is None:
            self._add(record, outcome)
            return
        self._pending.append((record, vector))
        if len(self._pending) == PIECE:
            self.flush()

    def _add(self, record: ReadRecord, outcome: StoredOutcome, scores: bytes | None = None) -> None:
        remade, fields = self.remaker.remake(outcome, scores, facts=self.choice.facts), outcome.fields
        kind = self.choice.of(fields, record.timestamp_ms, kind_of(remade))
        self.newest.outcome(record.partition, record.offset, fields, kind)
        if self.changes is not None and isinstance(remade, New) and kind is not FILTERED:
            self.changes.take((record.partition, record.offset), remade)
