"""Observations of metrics while a test runs, and pages of metrics as Prometheus reads them."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from workers.metrics import Counter, Histogram, hand_on_all


class Measured:
    def __init__(self, reader: InMemoryMetricReader, names: Mapping[Counter | Histogram, str]) -> None:
        self._reader = reader
        self._names = names

    def by(self, label: str, metric: Counter | Histogram, **wanted: str) -> dict[str, float]:
        """The sums of a counter, or the numbers of a histogram's values, by one of their labels."""
        found: dict[str, float] = {}
        for point in self._points(metric):
            labels = {name: str(value) for name, value in (point.attributes or {}).items()}
            if wanted.items() <= labels.items():
                count = point.count if isinstance(point, HistogramDataPoint) else point.value
                found[labels[label]] = found.get(labels[label], 0) + count
        return found

    def total(self, metric: Counter) -> float | None:
        """The sum of a counter over all of its labels; None: it is not shown yet."""
        found = [point.value for point in self._points(metric) if isinstance(point, NumberDataPoint)]
        return sum(found) if found else None

    def _points(self, metric: Counter | Histogram) -> Iterator[HistogramDataPoint | NumberDataPoint]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    if each.name == self._names[metric]:
                        yield from each.data.data_points  # type: ignore[misc]


@contextmanager
def measuring(*metrics: Counter | Histogram) -> Iterator[Measured]:
    """While the body runs, these metrics begin at nothing and are read from here."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("test")
    names = {metric: f"metric-{number}" for number, metric in enumerate(metrics)}
    with ExitStack() as undo:
        undo.callback(provider.shutdown)
        for metric, name in names.items():
            if isinstance(metric, Counter):
                undo.enter_context(patch.object(metric, "_totals", {}))
                meter.create_observable_counter(name, [metric.observe])
            else:
                undo.enter_context(patch.multiple(metric, _instrument=meter.create_histogram(name), _kept=deque()))
        meter.create_observable_gauge("nothing", [hand_on_all])
        yield Measured(reader, names)


def read_text(page: str) -> Sequence[Metric]:
    """Prometheus' text format; ValueError if invalid."""
    return list(text_string_to_metric_families(page))


def read_open_metrics(page: str) -> Sequence[Metric]:
    """OpenMetrics 1.0; ValueError if invalid."""
    return list(open_metrics.text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
