"""OpenTelemetry's providers: metrics for /metrics always, and OTLP (HTTP) where its own variables ask for it.

Where to and how OTLP goes (endpoint, headers, sampling, intervals) is read by OpenTelemetry itself from OTEL_…
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.openmetrics import exposition as open_metrics

from workers.service.exemplars import ExemplarReader, WithExemplars

if TYPE_CHECKING:
    from requests import Session


@dataclass(frozen=True)
class Telemetry:
    """The providers of this process. Without `tracer_provider`, spans cost nothing and traceparents pass through."""

    registry: CollectorRegistry
    with_exemplars: WithExemplars
    meter_provider: MeterProvider
    tracer_provider: TracerProvider | None

    def install(self) -> None:
        """Make these the process' own; once, before the work begins."""
        metrics.set_meter_provider(self.meter_provider)
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
        """Send what is left; bounded by OTEL_EXPORTER_OTLP_TIMEOUT (10 s by default)."""
        if self.tracer_provider is not None:
            self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def make_telemetry(*, instance: str, version: str, otlp_traces: bool, otlp_metrics: bool) -> Telemetry:
    """Providers for a worker that calls itself `instance`; nothing is global until `Telemetry.install`."""
    resource = _resource(instance, version)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    reader = ExemplarReader(registry)
    readers: list[MetricReader] = [reader]
    if otlp_metrics:
        readers.append(_otlp_reader())
    return Telemetry(
        registry=registry,
        with_exemplars=WithExemplars(registry, reader),
        meter_provider=MeterProvider(readers, resource=resource),
        tracer_provider=_otlp_tracer_provider(resource) if otlp_traces else None,
    )


def _resource(instance: str, version: str) -> Resource:
    """The attributes that name this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    ours = Resource({"service.name": "tagstream", "service.version": version, "service.instance.id": instance})
    return Resource.create(dict(ours.merge(OTELResourceDetector().detect()).attributes))


def _otlp_reader() -> MetricReader:
    # Imported here: the exporters bring requests and protobuf, which nothing else needs.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return PeriodicExportingMetricReader(OTLPMetricExporter(session=_session()))


def _otlp_tracer_provider(resource: Resource) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=_session())))
    return provider


def _session() -> Session:
    """An HTTP session that reads only status and headers of an answer.

    The exporters need no more.

    Its body would be read whole before that, however large it is and however slowly it comes.
    """
    from requests import Response, Session

    class StatusOnly(Session):
        def request(self, *args: Any, **options: Any) -> Response:
            with super().request(*args, **options | {"stream": True}) as response:
                return response

    return StatusOnly()
