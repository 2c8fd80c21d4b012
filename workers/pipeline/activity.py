"""Reports the activity of a worker: a log line every 30 seconds, a summary at the end, and gauges."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from schemas.printable import counted
from workers import metrics
from workers.lanes import is_background
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.commit.after_commit import Tally
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.commit.polling import Poller
from workers.pipeline.flow.budget import Budget
from workers.pipeline.pipeline import Pipeline
from workers.pipeline.progress import TaskProgress
from workers.ports import Clock, RecordSource
from workers.types import Lane, OutcomeKind, Partition

AFTER_S = 30.0
"""After this many seconds, a producer's open transaction is reported."""


class HeldUp:
    """Reports partitions that a producer's open transaction blocks."""

    def __init__(self, held_up: Callable[[], Mapping[Partition, float]] = dict, after_s: float = AFTER_S) -> None:
        self._held_up = held_up
        self._after_s = after_s
        self._told: set[Partition] = set()

    def notices(self) -> list[str]:
        return [
            f"{place} is held up for {seconds:.0f} s by an open transaction of a producer"
            for place, seconds in self._long()
        ]

    def step(self) -> None:
        """Log each partition that is newly blocked, or free again."""
        held = {place for place, _ in self._long()}
        for place in sorted(held - self._told):
            _log.warning(
                "%s is held up by a producer's open transaction: nothing after it is read until it ends, at the "
                "latest after the producer's transaction.timeout.ms",
                place,
            )
        for place in sorted(self._told - held):
            _log.info("%s is no longer held up", place)
        self._told = held

    def _long(self) -> list[tuple[Partition, float]]:
        return sorted((place, seconds) for place, seconds in self._held_up().items() if seconds >= self._after_s)


_log = logging.getLogger(__name__)

EVERY_S = 30.0

_BOUNDS = {
    "the store": ("fetch", "wait-store"),
    "the decoder": ("wait-inspect", "inspect", "decode"),
    "the model": ("wait-device", "annotate", "finish"),
    "the cache": ("lookup",),
    "the captioner": ("wait-caption",),
}
"""The places at which images wait for each bottleneck. Waits for memory or for an equal image are left out: another
place causes them."""


@dataclass(eq=False)
class ActivityLog:
    """Logs the worker's rate, outcomes and current bottleneck. Not thread-safe.

    Call `step` about once a second. The log line names the bottleneck that most calls found.
    """

    clock: Clock
    tally: Tally
    progress: TaskProgress
    ledger: Ledger
    ends: Callable[[], Mapping[Partition, int]] = dict
    background: Collection[str] = ()

    def __post_init__(self) -> None:
        self._started = self._since = self.clock.monotonic()
        self._before: Counter[tuple[OutcomeKind, str]] = Counter()
        self._bottlenecks: Counter[str] = Counter()
        for bound in (*_BOUNDS, "the broker", "the input", "memory"):
            metrics.BOUND.begin(by=bound.removeprefix("the "))

    def step(self) -> None:
        """Note the current bottleneck; log a line every `EVERY_S` seconds of work."""
        places, records = self.progress.counts(), self.ledger.records
        bound = bound_by(places, records)
        self._bottlenecks[bound] += 1
        metrics.BOUND.add(by=bound.removeprefix("the "))
        seconds = self.clock.monotonic() - self._since
        if seconds < EVERY_S:
            return
        counts = self.tally.counts()
        fresh = counts - self._before
        if fresh or records:
            [(most, looks)] = self._bottlenecks.most_common(1)
            share = f"{looks} of {self._bottlenecks.total()} looks"
            at_work = _in_flight(places, records) + _lag(self.ledger.committed(), self.ends(), self.background)
            _log.info("%s; %s; bounded by %s (%s)", _summary(fresh, seconds), at_work, most, share)
        self._since, self._before = self.clock.monotonic(), counts
        self._bottlenecks.clear()

    def summarize(self) -> None:
        seconds = self.clock.monotonic() - self._started
        _log.info("in all, in %.0f s: %s", seconds, _summary(self.tally.counts(), seconds))


def bound_by(places: Mapping[str, int], records: int) -> str:
    """The bottleneck: the service or part for which most images wait.

    It is the input if there are no records, and the broker if all images are finished.
    """
    if not records:
        return "the input"
    waiting = {name: sum(places.get(place, 0) for place in group) for name, group in _BOUNDS.items()}
    most = max(waiting, key=lambda name: waiting[name])
    if waiting[most]:
        return most
    return "memory" if any(places.values()) else "the broker"


def _summary(counts: Mapping[tuple[OutcomeKind, str], int], seconds: float) -> str:
    """Outcomes as text: `12.5 images/s (370 enriched, 5 partial), 0 retractions, …`."""
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


def _lag(committed: Mapping[Partition, int], ends: Mapping[Partition, int], background: Collection[str]) -> str:
    """`, lag 1,235 offsets in 4 partitions (1,230 in the background)`; empty before any end offset is known."""
    behind = {partition: max(0, ends[partition] - at) for partition, at in committed.items() if partition in ends}
    if not behind:
        return ""
    waiting = sum(lag for partition, lag in behind.items() if is_background(partition, background))
    of_these = f" ({waiting:,} in the background)" if waiting else ""
    return f", lag {counted(sum(behind.values()), 'offset')} in {counted(len(behind), 'partition')}{of_these}"


def gauges(pipeline: Pipeline, poller: Poller, source: RecordSource, clock: Clock) -> Mapping[ObservedGauge, Reader]:
    """A function for each gauge that reads its value. Thread-safe."""

    def budgets(read: Callable[[Budget], int]) -> Reader:
        return lambda: [
            (read(budget), {"budget": name}) for stage in pipeline.stages for name, budget in stage.budgets.items()
        ]

    shown = {gauge: reader for stage in pipeline.stages for gauge, reader in stage.gauges.items()}

    def partitions() -> list[Reading]:
        held, paused = len(pipeline.ledger.assignments()), poller.paused
        return [
            (held - paused, {"state": "reading"}),
            (paused, {"state": "paused"}),
            (poller.opening, {"state": "opening"}),
        ]

    return {
        metrics.PARTITIONS: partitions,
        metrics.LEDGER_RECORDS: lambda: [(pipeline.ledger.records, {})],
        metrics.IN_FLIGHT: lambda: [(count, {"stage": stage}) for stage, count in pipeline.progress.counts().items()],
        metrics.BUDGET_BYTES: budgets(lambda budget: budget.used),
        metrics.BUDGET_PEAK_BYTES: budgets(lambda budget: budget.peak),
        metrics.BUDGET_LIMIT_BYTES: budgets(lambda budget: budget.limit),
        **_lags(pipeline.ledger, source, clock, pipeline.lane),
        **shown,
    }


def _lags(
    ledger: Ledger, source: RecordSource, clock: Clock, lane: Callable[[Partition], Lane]
) -> Mapping[ObservedGauge, Reader]:

    def value_at(place: Partition, value: float) -> Reading:
        return value, {"topic": place.topic, "partition": place.number, "lane": lane(place)}

    def records() -> list[Reading]:
        known = source.ends()
        behind = {place: max(0, known[place] - at) for place, at in ledger.committed().items() if place in known}
        return [value_at(place, lag) for place, lag in behind.items()]

    def held_up() -> list[Reading]:
        known = source.held_up()
        return [value_at(place, known.get(place, 0.0)) for place in ledger.committed()]

    return {
        metrics.HELD_UP_SECONDS: held_up,
        metrics.LAG_RECORDS: records,
        metrics.LAG_SECONDS: lambda: [value_at(at, age_of(entry, clock)) for at, entry in ledger.oldest().items()],
        metrics.COMMITTED_OFFSET: lambda: [value_at(place, at) for place, at in ledger.committed().items()],
    }


def age_of(entry: Entry | None, clock: Clock) -> float:
    """The age of a record in seconds; 0.0 without a record.

    It counts from the broker's append time, or else from the record's admission, because a producer's timestamp may be
    wrong.
    """
    if entry is None:
        return 0.0
    since_append = clock.wall() - entry.record.timestamp_ms / 1000
    if entry.record.append_time and since_append >= 0:
        return since_append
    return max(0.0, clock.monotonic() - entry.taken_at)
