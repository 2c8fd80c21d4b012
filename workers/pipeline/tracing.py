"""One trace per event, carried through the headers of its records (W3C Trace Context)."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from workers.vocabulary import Headers, Job

_tracer = trace.get_tracer("tagstream")
_propagator = TraceContextTextMapPropagator()
_NAMES = ("traceparent", "tracestate")


def inherited(headers: Headers) -> Headers:
    """The trace headers of an input record, as they came."""
    return tuple((name, value) for name, value in headers if name in _NAMES and value is not None)


def start(job: Job, headers: Headers) -> Span:
    """Begin the span of one event, a child of the one in its record's headers."""
    carrier = {name: (value or b"").decode("ascii", "replace") for name, value in inherited(headers)}
    span = _tracer.start_span("annotate image", _propagator.extract(carrier), SpanKind.CONSUMER)
    if span.is_recording():
        span.set_attribute("messaging.system", "kafka")
        span.set_attribute("messaging.destination.name", job.coordinates.topic)
        span.set_attribute("messaging.destination.partition.id", str(job.coordinates.partition))
        span.set_attribute("messaging.kafka.offset", job.coordinates.offset)
    return span


def headers_of(span: Span) -> Headers:
    """Trace headers for what comes out of this span; empty when there is no trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return tuple((name, value.encode()) for name, value in carrier.items())


def end(span: Span, how: str) -> None:
    span.set_attribute("tagstream.end", how)
    span.end()
