"""A receiver of OTLP over HTTP: a collector's data, as plain values."""

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class SeenSpan:
    """One span. Ids are hexadecimal; `links` are the spans that it links to, `service` its resource's name."""

    name: str
    service: str
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]
    links: tuple[str, ...]


@dataclass
class Received:
    """The paths of all requests so far, and the spans."""

    url: str
    paths: list[str] = field(default_factory=list)
    spans: list[SeenSpan] = field(default_factory=list)

    def about(self, attribute: str, value: str) -> list[SeenSpan]:
        """The spans with this attribute, or with it in a list."""
        return [span for span in self.spans if value in _listed(span.attributes.get(attribute))]


@contextmanager
def otlp_receiver() -> Iterator[Received]:
    """Answers 200 to all requests, until the body ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.paths.append(self.path)
            if self.path == "/v1/traces":
                received.spans.extend(_spans(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Received(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def _spans(body: bytes) -> Iterator[SeenSpan]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _values(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            yield from (_span(service, span) for span in scope.spans)


def _span(service: str, span: Span) -> SeenSpan:
    links = tuple(link.span_id.hex() for link in span.links)
    return SeenSpan(span.name, service, span.trace_id.hex(), span.span_id.hex(), _values(span.attributes), links)


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
