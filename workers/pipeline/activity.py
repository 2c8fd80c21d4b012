"""What the log says of the work: a line every 30 seconds while there is some, and a summary at the end."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from schemas.dead_letter import Failure
from schemas.printable import counted
from workers import metrics
from workers.pipeline.commit.ledger import Ledger, Rendered
from workers.pipeline.progress import TaskProgress
from workers.ports import Clock
from workers.types import OutcomeKind, Partition

_log = logging.getLogger(__name__)

EVERY_S = 30.0

_BOUNDS = {
    "the store": ("fetch", "wait-store"),
    "the decoder": ("wait-inspect", "inspect", "decode"),
    "the model": ("wait-device", "annotate", "finish"),
    "the cache": ("lookup",),
}
"""Whom an image at a place waits for. Places where it waits for memory (wait-fetch, wait-decode) or for another image
(wait-equal) are not here: they fill up because of what comes after them."""


class Tally:
    """Outcomes that are committed, counted since the start. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[OutcomeKind, str]] = Counter()

    def add(self, outcomes: Sequence[Rendered | Failure]) -> None:
        with self._lock:
            for outcome in outcomes:
                self._counts[_kind(outcome)] += 1

    def counts(self) -> Counter[tuple[OutcomeKind, str]]:
        """By kind (`OutcomeKind`) and reason; where there is none it is empty."""
        with self._lock:
            return self._counts.copy()


class ActivityLog:
    """Logs the worker's rate, outcomes and current bottleneck. On one thread.

    Call `step` about once a second. Each call counts the images in each place; the place where most images wait in most
    calls is the bottleneck.

    Args:
        ends: known end offsets of our partitions, for the lag.
    """

    def __init__(
        self,
        clock: Clock,
        tally: Tally,
        progress: TaskProgress,
        ledger: Ledger,
        ends: Callable[[], Mapping[Partition, int]] = dict,
    ) -> None:
        self._clock = clock
        self._tally = tally
        self._progress = progress
        self._ledger = ledger
        self._ends = ends
        self._started = self._since = clock.monotonic()
        self._before: Counter[tuple[OutcomeKind, str]] = Counter()
        self._looks: Counter[str] = Counter()
        for bound in (*_BOUNDS, "the broker", "the input", "memory"):
            metrics.BOUND.begin(by=_label(bound))

    def step(self) -> None:
        """Count the images in each place; log a line when one is due and something was done."""
        places, records = self._progress.counts(), self._ledger.records
        bound = bound_by(places, records)
        self._looks[bound] += 1
        metrics.BOUND.add(by=_label(bound))
        seconds = self._clock.monotonic() - self._since
        if seconds < EVERY_S:
            return
        counts = self._tally.counts()
        fresh = counts - self._before
        if fresh or records:
            [(most, looks)] = self._looks.most_common(1)
            share = f"{looks} of {self._looks.total()} looks"
            at_work = _in_flight(places, records) + _lag(self._ledger.committed(), self._ends())
            _log.info("%s; %s; bounded by %s (%s)", _summary(fresh, seconds), at_work, most, share)
        self._since, self._before = self._clock.monotonic(), counts
        self._looks.clear()

    def summarize(self) -> None:
        """Log what the whole run came to."""
        seconds = self._clock.monotonic() - self._started
        _log.info("in all, in %.0f s: %s", seconds, _summary(self._tally.counts(), seconds))


def bound_by(places: Mapping[str, int], records: int) -> str:
    """What most images wait for at this moment: the input where there is no work, the broker where all is done."""
    if not records:
        return "the input"
    waiting = {name: sum(places.get(place, 0) for place in group) for name, group in _BOUNDS.items()}
    most = max(waiting, key=lambda name: waiting[name])
    if waiting[most]:
        return most
    return "memory" if any(places.values()) else "the broker"


def _label(bound: str) -> str:
    return bound.removeprefix("the ")


def _kind(outcome: Rendered | Failure) -> tuple[OutcomeKind, str]:
    if isinstance(outcome, Failure):
        return "dead-letter", outcome.reason
    if outcome.kind == "skip":
        return "skip", outcome.reason
    return outcome.kind, ""


def _summary(counts: Mapping[tuple[OutcomeKind, str], int], seconds: float) -> str:
    """The outcomes as text, e.g. "12.5 images/s (370 enriched, 5 partial), 3 dead letters (broken-image 3)"."""
    by_kind: Counter[OutcomeKind] = Counter()
    for (kind, _), count in counts.items():
        by_kind[kind] += count
    images = by_kind["enriched"] + by_kind["partial"]
    rate = images / seconds if seconds > 0 else 0.0
    return (
        f"{rate:.1f} images/s ({by_kind['enriched']} enriched, {by_kind['partial']} partial), "
        f"{counted(by_kind['retraction'], 'retraction')}, "
        f"{counted(by_kind['dead-letter'], 'dead letter')}{_reasons(counts, 'dead-letter')}, "
        f"{counted(by_kind['skip'], 'skip')}{_reasons(counts, 'skip')}"
    )


def _reasons(counts: Mapping[tuple[OutcomeKind, str], int], kind: OutcomeKind) -> str:
    reasons = [f"{reason} {count}" for (of, reason), count in sorted(counts.items()) if of == kind]
    return f" ({', '.join(reasons)})" if reasons else ""


def _in_flight(places: Mapping[str, int], records: int) -> str:
    """`20 images in flight (fetch 16, decode 4), 31 records not committed`"""
    where = ", ".join(f"{place} {count}" for place, count in places.items() if count)
    images = counted(sum(places.values()), "image")
    return f"{images} in flight{f' ({where})' if where else ''}, {counted(records, 'record')} not committed"


def _lag(committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> str:
    """`, lag 1,235 offsets in 4 partitions`; nothing where no end is known yet."""
    behind = [max(0, ends[partition] - offset) for partition, offset in committed.items() if partition in ends]
    if not behind:
        return ""
    return f", lag {counted(sum(behind), 'offset')} in {counted(len(behind), 'partition')}"
