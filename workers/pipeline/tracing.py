"""Traces: one span for each event, with W3C trace headers in its outcomes.

The span starts a new trace with a link to the producer's trace, as OpenTelemetry's messaging conventions say. So our
sampler decides which traces are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.image_event import ImageEvent
from workers.types import Coordinates, Headers

TRACESTATE_BYTES_MAX = 512
"""W3C Trace Context requires that a service passes on this many bytes."""

_tracer = trace.get_tracer("tagstream")
_propagator = TraceContextTextMapPropagator()
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[ -~]{1,%d}" % TRACESTATE_BYTES_MAX)


def inherited(headers: Headers) -> Headers:
    """The trace headers that outcomes inherit from a record.

    These are a valid traceparent, and a tracestate of at most 512 bytes.
    """
    parents = _values(headers, "traceparent")
    if len(parents) != 1 or not _TRACEPARENT.fullmatch(parents[0]):
        return ()
    states = _values(headers, "tracestate")
    if len(states) != 1 or not _TRACESTATE.fullmatch(states[0]):
        return (("traceparent", parents[0]),)
    return (("traceparent", parents[0]), ("tracestate", states[0]))


def start(name: str, where: Coordinates, producer: Headers) -> Span:
    """Start the span of an event."""
    span = _tracer.start_span(name, Context(), SpanKind.CONSUMER, links=_links(producer))
    if span.is_recording():
        span.set_attribute("messaging.system", "kafka")
        span.set_attribute("messaging.operation.type", "process")
        span.set_attribute("messaging.operation.name", name)
        span.set_attribute("messaging.destination.name", where.topic)
        span.set_attribute("messaging.destination.partition.id", str(where.partition))
        span.set_attribute("messaging.kafka.offset", where.offset)
        span.set_attribute("tagstream.index", where.index)
    return span


@contextmanager
def batch(spans: Sequence[Span]) -> Iterator[Span | None]:
    """Run in a batch's span, which links to its images' spans.

    Yields None if no image is recorded, because even an unrecorded span takes 0.1 ms.
    """
    if not any(span.is_recording() for span in spans):
        yield None
        return
    links = [Link(span.get_span_context()) for span in spans]
    attributes = {"tagstream.batch.images": len(spans)}
    with _tracer.start_as_current_span("annotate batch", links=links, attributes=attributes) as span:
        yield span


def tell_event(span: Span, event: ImageEvent) -> None:
    """Add the event's object and id to a span."""
    if span.is_recording():
        span.set_attribute("tagstream.subject", event.subject)
        span.set_attribute("tagstream.event_id", event.id)


def carried(headers: Headers) -> SpanContext | None:
    """The span in the result of `inherited` or `headers_of`."""
    parent = next((value or b"" for name, value in headers if name == "traceparent"), None)
    if parent is None:
        return None
    _, trace_id, span_id, flags = (int(part, 16) for part in parent.split(b"-"))
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def example(spans: Iterable[SpanContext | None]) -> Context | None:
    """The context of the first recorded span, as a metric's exemplar."""
    for span in spans:
        if span is not None and span.trace_flags.sampled:
            return trace.set_span_in_context(NonRecordingSpan(span), Context())
    return None


def headers_of(span: Span) -> Headers:
    """The trace headers that name this span; empty without tracing."""
    if not span.get_span_context().is_valid:
        return ()
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return tuple((name, value.encode()) for name, value in carrier.items())


def end(span: Span, how: str) -> None:
    span.set_attribute("tagstream.end", how)
    span.end()


def _values(headers: Headers, name: str) -> list[bytes]:
    return [value or b"" for found, value in headers if found == name]


def _links(producer: Headers) -> list[Link]:
    """A link without tracestate, because its parser would log each error."""
    span = carried(producer)
    return [] if span is None else [Link(span)]
