"""What of the line is shown as gauges: read when somebody looks, so that no thread of the line spends time on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers import metrics
from workers.metrics import ObservedGauge, Reader, Reading
from workers.pipeline.budget import Budget
from workers.pipeline.line import Line
from workers.pipeline.polling import Poller


def gauges(line: Line, poller: Poller) -> Mapping[ObservedGauge, Reader]:
    """Each gauge and who reads it; any thread."""

    def budgets(read: Callable[[Budget], int]) -> Reader:
        return lambda: [_said(read(line.encoded), budget="encoded"), _said(read(line.decoded), budget="decoded")]

    def partitions() -> list[Reading]:
        held, paused = len(line.ledger.epochs()), poller.paused
        return [
            _said(held - paused, state="reading"),
            _said(paused, state="paused"),
            _said(poller.opening, state="opening"),
        ]

    return {
        metrics.PARTITIONS: partitions,
        metrics.LEDGER_RECORDS: lambda: [_said(line.ledger.records)],
        metrics.IN_FLIGHT: lambda: [_said(count, stage=stage) for stage, count in line.stages.counts().items()],
        metrics.BUDGET_BYTES: budgets(lambda budget: budget.used),
        metrics.BUDGET_PEAK_BYTES: budgets(lambda budget: budget.peak),
        metrics.BUDGET_LIMIT_BYTES: budgets(lambda budget: budget.limit),
        metrics.BREAKERS: lambda: [
            _said(count, neighbour="s3", state=state) for state, count in line.neighbours.breakers().items()
        ],
    }


def _said(value: float, **labels: str) -> Reading:
    return value, labels
