"""OpenTelemetry's providers: metrics for /metrics always, and OTLP (HTTP) where its own variables ask for it.

Where to and how OTLP goes (endpoint, headers, sampling, intervals) is read by OpenTelemetry itself from OTEL_…
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.export import Metric as Measured
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as open_metrics
from prometheus_client.samples import Exemplar, Sample

from workers import metrics


@dataclass(frozen=True)
class Telemetry:
    """The providers of this process. Without `tracer_provider`, spans cost nothing and traceparents pass through."""

    registry: CollectorRegistry
    with_exemplars: WithExemplars
    meter_provider: MeterProvider
    tracer_provider: TracerProvider | None

    def install(self) -> None:
        """Make these the process' own; once, before the work begins."""
        set_meter_provider(self.meter_provider)
        if self.tracer_provider is not None:
            trace.set_tracer_provider(self.tracer_provider)

    def metrics_page(self) -> bytes:
        """Everything measured so far, in Prometheus' text format."""
        return generate_latest(self.registry)

    def open_metrics_page(self) -> bytes:
        """The same in OpenMetrics 1.0, with exemplars: the traces behind the buckets of histograms."""
        # Our names need no escapes. To say so saves a look at each of their letters, a quarter of the page's time.
        page: bytes = open_metrics.generate_latest(self.with_exemplars, open_metrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
        return page

    def close(self) -> None:
        """Send the rest; bounded by OTEL_EXPORTER_OTLP_TIMEOUT (10 s by default)."""
        if self.tracer_provider is not None:
            self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def make_telemetry(*, instance: str, version: str, otlp_traces: bool, otlp_metrics: bool) -> Telemetry:
    """Providers for a worker that calls itself `instance`; nothing is global until `Telemetry.install`."""
    ours = Resource({"service.name": "tagstream", "service.version": version, "service.instance.id": instance})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word.
    resource = Resource.create(dict(ours.merge(OTELResourceDetector().detect()).attributes))
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    reader = ExemplarReader(registry)
    readers: list[MetricReader] = [reader]
    tracer_provider = None
    # Imported here: the exporters bring requests and protobuf, which nothing else needs.
    if otlp_metrics:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if otlp_traces:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        tracer_provider = TracerProvider(resource=resource)
        tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Telemetry(
        registry=registry,
        with_exemplars=WithExemplars(registry, reader),
        meter_provider=MeterProvider(readers, resource=resource),
        tracer_provider=tracer_provider,
    )


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
            labels: the bucket's, `le` among them; an empty one counts as missing.
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
                labels = frozenset(
                    (key.replace(".", "_"), str(value)) for key, value in (point.attributes or {}).items()
                )
                self._latest.setdefault((name, labels), {}).update(_by_bucket(point))


@dataclass(frozen=True)
class WithExemplars:
    """A registry's metrics, with an exemplar in each bucket that has one."""

    registry: CollectorRegistry
    reader: ExemplarReader

    def collect(self) -> Iterator[Metric]:
        for family in self.registry.collect():
            if family.type == "histogram":
                family.samples = [self._filled(family.name, sample) for sample in family.samples]
            yield family

    def _filled(self, name: str, sample: Sample) -> Sample:
        exemplar = self.reader.exemplar(name, sample.labels)
        return sample if exemplar is None else sample._replace(exemplar=exemplar)


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
