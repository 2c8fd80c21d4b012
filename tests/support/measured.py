"""What metrics are told while a test runs, by a provider of its own: the process' one is set once, and never reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from workers.metrics import Counter, Histogram


class Measured:
    """Reads the metrics of one `measuring`."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def by(self, label: str, metric: Counter | Histogram, **wanted: str) -> dict[str, float]:
        """The sums of a counter, or the numbers of a histogram's values, by one of their labels."""
        found: dict[str, float] = {}
        for point in self._points(metric):
            labels = {name: str(value) for name, value in (point.attributes or {}).items()}
            if wanted.items() <= labels.items():
                count = point.count if isinstance(point, HistogramDataPoint) else point.value
                found[labels[label]] = found.get(labels[label], 0) + count
        return found

    def _points(self, metric: Counter | Histogram) -> Iterator[HistogramDataPoint | NumberDataPoint]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    if each.name == metric._instrument.name:  # type: ignore[attr-defined]
                        yield from each.data.data_points  # type: ignore[misc]


@contextmanager
def measuring(*metrics: Counter | Histogram) -> Iterator[Measured]:
    """While the body runs, these metrics begin at nothing and are read from here."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("test")
    before = [metric._instrument for metric in metrics]
    for number, metric in enumerate(metrics):
        make = meter.create_counter if isinstance(metric, Counter) else meter.create_histogram
        metric._instrument = make(f"metric-{number}")  # type: ignore[assignment]
    try:
        yield Measured(reader)
    finally:
        for metric, instrument in zip(metrics, before, strict=True):
            metric._instrument = instrument  # type: ignore[assignment]
        provider.shutdown()
