"""The pipeline's gauges: read when scraped, so that no thread of the pipeline spends time on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers import metrics
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.commit.polling import Poller
from workers.pipeline.flow.budget import Budget
from workers.pipeline.pipeline import Pipeline


def gauges(pipeline: Pipeline, poller: Poller) -> Mapping[ObservedGauge, Reader]:
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
        **shown,
    }


def _said(value: float, **labels: str) -> Reading:
    return value, labels
