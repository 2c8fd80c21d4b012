"""The report of a plan, with bytes, device hours and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from schemas.printable import counted
from workers.retag.planning import Found
from workers.retag.remake import REASONS

_GIGABYTE: Final = 1e9


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of tagging images again.

    Args:
        image_s: seconds of the device per image, in full batches; None: unknown.
        device_hour, gigabyte: prices in any currency; None: unknown.
    """

    image_s: float | None = None
    device_hour: float | None = None
    gigabyte: float | None = None


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
    prices: Prices

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

    @property
    def device_hours(self) -> float | None:
        image_s = self.prices.image_s
        return None if image_s is None else self.counts["need_image"] * image_s / 3600

    @property
    def cost(self) -> float | None:
        """The cost, as far as prices are known; None: no price is."""
        amounts = ((self.device_hours, self.prices.device_hour), (self.bytes / _GIGABYTE, self.prices.gigabyte))
        parts = [amount * price for amount, price in amounts if amount is not None and price is not None]
        return sum(parts) if parts else None

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
            "device_hours": self.device_hours,
            "cost": self.cost,
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
            hours, cost = self.device_hours, self.cost
            parts = [f"to fetch: {_or_smaller(self.bytes / _GIGABYTE, 'GB', 1000, 'MB', digits=2)}"]
            parts += [] if hours is None else [_or_smaller(hours, "device hours", 60, "device minutes", digits=1)]
            parts += [] if cost is None else [f"cost {cost:,.2f}"]
            yield "; ".join(parts)


def _or_smaller(number: float, unit: str, parts: int, part: str, digits: int) -> str:
    """A number in its unit; a small number in parts of the unit."""
    few = number * 10**digits < 1
    return f"{number * parts:,.{digits}f} {part}" if few else f"{number:,.{digits}f} {unit}"


def _named(changes: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in changes.items())})" if changes else ""
