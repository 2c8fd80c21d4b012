"""The report of an audit: counts, and the first faults of each kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from workers.types import Partition, ReadRecord

KEPT: Final = 1_000
"""Findings of each kind that are kept with their coordinates."""

Fault: TypeAlias = Literal["missing", "doubled", "out-of-order", "without-record", "uncommitted"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

Excuse: TypeAlias = Literal[
    "superseded", "compacted", "no-skipped-topic", "expired", "input-expired", "input-compacted", "input-unreadable",
    "before-the-group", "too-many-ranges", "uncommitted", "forgotten",
]  # fmt: skip
REASONS: Final[dict[Excuse, str]] = {
    "superseded": "the output topic is compacted, and a newer outcome of the same image is there",
    "compacted": "the dead-letter or skipped topic is compacted, or its cleanup.policy can't be read",
    "no-skipped-topic": "TAGSTREAM_SKIPPED_TOPIC is not set: it may have been skipped",
    "expired": "an output topic has lost its oldest records, the outcome perhaps among them",
    "input-expired": "the input topic has lost the record; offsets are counted",
    "input-compacted": "an outcome is there, and the input topic, which is compacted, has lost the record",
    "input-unreadable": "the record's batch can't be read here, so its events can't be counted",
    "before-the-group": "older than the partition's first outcome: with TAGSTREAM_OFFSET_RESET=latest never read",
    "too-many-ranges": "more dead letters of whole batches than are remembered",
    "forgotten": "the output topic is compacted, and after a tombstone nothing of the image may be left",
    "uncommitted": "an outcome stands beyond what the group has committed, as with at_least_once after a failure",
}


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One fault.

    Args:
        record: the input, `topic:partition:offset`.
        detail: which events, and what was there instead; one line.
        output: the outcome that is too many or too late, `topic:partition:offset`.
    """

    record: str
    detail: str
    output: str | None = None

    def __str__(self) -> str:
        at = f", at {self.output}" if self.output else ""
        return f"{self.record}: {self.detail}{at}"


_NUMBERS: Final = ("records", "events", "outcomes", "remade", "other", "strange", "tombstones", "in_flight")


@dataclass(slots=True)
class AuditReport:
    """Filled in as an audit goes on.

    Args:
        records: of the input that were judged, `events` what they hold.
        outcomes: what the output topics have for the chosen ranges.
        remade: outcomes made from an earlier record of the output topic, or repeating one.
        other: records of the output topics that answer none of these ranges; `strange`: that are no outcomes.
        tombstones: records of null value in the output topic.
        in_flight: records beyond what the group has committed: not judged.
    """

    records: int = 0
    events: int = 0
    outcomes: int = 0
    remade: int = 0
    other: int = 0
    strange: int = 0
    tombstones: int = 0
    in_flight: int = 0
    counts: Counter[Fault] = field(default_factory=Counter)
    unverifiable: Counter[Excuse] = field(default_factory=Counter)
    findings: dict[Fault, list[AuditFinding]] = field(default_factory=lambda: {fault: [] for fault in FAULTS})
    ranges: dict[Partition, tuple[int, int]] = field(default_factory=dict)

    @property
    def proved(self) -> bool:
        """Whether nothing that could be judged is wrong."""
        return not self.counts

    def note(self, fault: Fault, record: str, detail: str, output: ReadRecord | None = None) -> None:
        """Count a fault, and keep the first of each kind."""
        self.counts[fault] += 1
        where = None if output is None else output.place
        if len(self.findings[fault]) < KEPT:
            self.findings[fault].append(AuditFinding(record, detail, where))

    def as_json(self) -> dict[str, Any]:
        return {
            "proved": self.proved,
            "ranges": [
                {"topic": place.topic, "partition": place.number, "from": first, "to": end}
                for place, (first, end) in sorted(self.ranges.items())
            ],
            **{name: getattr(self, name) for name in _NUMBERS},
            "faults": {
                fault: {"count": self.counts[fault], "first": [asdict(one) for one in self.findings[fault]]}
                for fault in FAULTS
            },
            "unverifiable": {name: {"count": n, "reason": REASONS[name]} for name, n in self.unverifiable.items()},
        }
