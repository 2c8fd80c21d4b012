"""The pipeline's gauges: read when scraped, so that no thread of the pipeline spends time on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers import metrics
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.commit.polling import Poller
from workers.pipeline.flow.budget import Budget
from workers.pipeline.pipeline import Pipeline
from workers.ports import Clock, RecordSource
from workers.types import Partition


def gauges(pipeline: Pipeline, poller: Poller, source: RecordSource, clock: Clock) -> Mapping[ObservedGauge, Reader]:
    """The function that reads each gauge; any thread."""

    def budgets(read: Callable[[Budget], int]) -> Reader:
        return lambda: [
            _said(read(budget), budget=name) for stage in pipeline.stages for name, budget in stage.budgets.items()
        ]

    shown = {gauge: reader for stage in pipeline.stages for gauge, reader in stage.gauges.items()}

    def partitions() -> list[Reading]:
        held, paused = len(pipeline.ledger.assignments()), poller.paused
        return [
            _said(held - paused, state="reading"),
            _said(paused, state="paused"),
            _said(poller.opening, state="opening"),
        ]

    return {
        metrics.PARTITIONS: partitions,
        metrics.LEDGER_RECORDS: lambda: [_said(pipeline.ledger.records)],
        metrics.IN_FLIGHT: lambda: [_said(count, stage=stage) for stage, count in pipeline.progress.counts().items()],
        metrics.BUDGET_BYTES: budgets(lambda budget: budget.used),
        metrics.BUDGET_PEAK_BYTES: budgets(lambda budget: budget.peak),
        metrics.BUDGET_LIMIT_BYTES: budgets(lambda budget: budget.limit),
        **_lags(pipeline.ledger, source, clock),
        **shown,
    }


def _lags(ledger: Ledger, source: RecordSource, clock: Clock) -> Mapping[ObservedGauge, Reader]:
    """How far each partition is behind."""

    def records() -> list[Reading]:
        known = source.ends()
        behind = {place: max(0, known[place] - at) for place, at in ledger.committed().items() if place in known}
        return [_of(place, lag) for place, lag in behind.items()]

    def held_up() -> list[Reading]:
        known = source.held_up()
        return [_of(place, known.get(place, 0.0)) for place in ledger.committed()]

    return {
        metrics.HELD_UP_SECONDS: held_up,
        metrics.LAG_RECORDS: records,
        metrics.LAG_SECONDS: lambda: [_of(place, age_of(entry, clock)) for place, entry in ledger.oldest().items()],
        metrics.COMMITTED_OFFSET: lambda: [_of(place, at) for place, at in ledger.committed().items()],
    }


def age_of(entry: Entry | None, clock: Clock) -> float:
    """Age of a record in seconds, by append time or by ours.

    A producer's timestamp may be decades off, so without an append time the age counts from when we took the record.
    """
    if entry is None:
        return 0.0
    since_append = clock.wall() - entry.record.timestamp_ms / 1000
    if entry.record.append_time and since_append >= 0:
        return since_append
    return max(0.0, clock.monotonic() - entry.taken_at)


def _of(place: Partition, value: float) -> Reading:
    return value, {"topic": place.topic, "partition": place.number}


def _said(value: float, **labels: str) -> Reading:
    return value, labels
