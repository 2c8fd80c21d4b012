"""Exemplars: in each bucket of a histogram, the trace of the last measurement there that a sampled span made.

OpenTelemetry's SDK collects them (its filter `trace_based`) and forgets them with each collection, and its exporter for
Prometheus leaves them out. So they are kept here from one collection to the next: whichever page is read, and by
however many scrapers, the OpenMetrics page has the last of each bucket. The SDK bounds them, as it bounds the series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricsData
from opentelemetry.sdk.metrics.export import Metric as Measured
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample

from workers import metrics

_Series: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
"""A histogram's name on the page, with its labels."""


class ExemplarReader(PrometheusMetricReader):
    """Reads the metrics for the pages, and keeps their exemplars. Used on one thread: that of the pages' server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._exposed = {metric.name: metric.exposed for metric in metrics.ALL if metric.kind == "histogram"}
        self._latest: dict[_Series, dict[str, Exemplar]] = {}

    def exemplar(self, name: str, labels: Mapping[str, str]) -> Exemplar | None:
        """The last of a bucket.

        Args:
            name: the histogram's, as the page has it.
            labels: the bucket's, `le` among them; an empty one is as good as none.
        """
        others = frozenset((label, value) for label, value in labels.items() if label != "le" and value)
        return self._latest.get((name, others), {}).get(labels.get("le", ""))

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self._keep(metric)
        super()._receive_metrics(metrics_data, timeout_millis, **kwargs)

    def _keep(self, metric: Measured) -> None:
        name = self._exposed.get(metric.name)
        if name is None:
            return
        for point in metric.data.data_points:
            if isinstance(point, HistogramDataPoint) and point.exemplars:
                self._latest.setdefault((name, _labels(point.attributes or {})), {}).update(_by_bucket(point))


class WithExemplars:
    """A registry's metrics, with an exemplar in each bucket that has one."""

    def __init__(self, registry: CollectorRegistry, reader: ExemplarReader) -> None:
        self._registry = registry
        self._reader = reader

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.type == "histogram":
                family.samples = [self._filled(family.name, sample) for sample in family.samples]
            yield family

    def _filled(self, name: str, sample: Sample) -> Sample:
        exemplar = self._reader.exemplar(name, sample.labels)
        return sample if exemplar is None else sample._replace(exemplar=exemplar)


def _labels(attributes: Mapping[str, AttributeValue]) -> frozenset[tuple[str, str]]:
    return frozenset((name.replace(".", "_"), str(value)) for name, value in attributes.items())


def _by_bucket(point: HistogramDataPoint) -> dict[str, Exemplar]:
    """A point's exemplars, by upper bound of their bucket as printed."""
    bounds = [*map(str, point.explicit_bounds), "+Inf"]
    return {
        bounds[bisect_left(point.explicit_bounds, found.value)]: Exemplar(
            {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"},
            found.value,
            found.time_unix_nano / 1e9,
        )
        for found in point.exemplars
        if found.trace_id is not None and found.span_id is not None
    }
