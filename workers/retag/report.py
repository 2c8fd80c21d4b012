"""The report of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.printable import counted
from workers.retag.planning import Found
from workers.retag.remake import REASONS


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A finished plan.

    Args:
        compacted: whether the topic is compacted; None: unknown.
        foreign: number of records that are no outcomes.
    """

    topic: str
    partitions: int
    compacted: bool | None
    records: int
    foreign: int
    found: Found

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of subjects by fate."""
        fates, embedded = Counter[str](), 0
        for kind, count in self.found.counts.items():
            fates[kind.fate] += count
            embedded += count * kind.embedded
        return {
            "subjects": fates.total(),
            "unchanged": fates["unchanged"],
            "rescored": fates["rescore"],
            "with_stored_embedding": embedded,
            "need_image": fates["image"],
            "stay": fates["stays"],
            "filtered": fates["filtered"],
            "gone": self.found.gone,
        }

    @property
    def bytes(self) -> int:
        """Bytes of the images to fetch."""
        return sum(size for kind, size in self.found.bytes.items() if kind.fate == "image")

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partitions": self.partitions,
            "compacted": self.compacted,
            "records": self.records,
            "foreign": self.foreign,
            **self.counts,
            "changes": self.changes,
            "need_image_by_reason": self.found.of("image"),
            "stay_by_reason": self.found.of("stays"),
            "fetch_bytes": self.bytes,
        }

    @property
    def changes(self) -> dict[str, int]:
        """Numbers of rescored subjects by change; a subject with two changes counts twice."""
        changes = Counter[str]()
        for reason, count in self.found.of("rescore").items():
            for change in reason.split(","):
                changes[change] += count
        return dict(changes.most_common())

    def lines(self) -> Iterator[str]:
        """The report for people."""
        counts = self.counts
        yield f"{self.topic}: {counted(self.records, 'record')} in {counted(self.partitions, 'partition')}"
        if self.compacted is not True:
            yield (
                f"{self.topic} is not compacted, as far as is known: it keeps the old outcomes besides the new ones. "
                "Set cleanup.policy=compact to keep one outcome of each subject."
            )
        rows = [
            (counts["subjects"], "subjects", True),
            (counts["unchanged"], "unchanged", True),
            (counts["rescored"], f"answered by stored scores{_named(self.changes)}", True),
            (counts["with_stored_embedding"], "of these with a stored embedding", False),
            (counts["need_image"], "need the image", True),
            *((n, f"  {each}: {REASONS[each]}", True) for each, n in self.found.of("image").items()),
            *((n, f"stay as they are: {each}: {REASONS[each]}", True) for each, n in self.found.of("stays").items()),
            (counts["filtered"], "left out by the filters", False),
            (counts["gone"], "gone: retracted, and not counted above", False),
        ]
        yield from (f"{count:13,}  {what}" for count, what, also_none in rows if count or also_none)
        if counts["need_image"]:
            gigabytes = self.bytes / 1e9
            yield f"to fetch: {gigabytes:,.2f} GB" if gigabytes >= 0.01 else f"to fetch: {1_000 * gigabytes:.2f} MB"


def _named(changes: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in changes.items())})" if changes else ""
