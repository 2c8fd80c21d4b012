"""A worker with a tracer in a process: prints spans and the OpenMetrics page as JSON."""

import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.harness import OUT, SKIPPED, Harness
from workers.service.telemetry import make_telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def main() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    telemetry = make_telemetry(instance="w1", version="1", otlp_traces=False, otlp_metrics=False)
    telemetry.install()
    harness = Harness(partitions=1)
    for number in range(3):
        harness.put(f"{number}.png", (100 + number, 0, 0))
        harness.send(harness.event(f"{number}.png"), headers=(("traceparent", PARENT.encode()),))
    harness.send(
        harness.notification("gone.png", name="ObjectRemoved:Delete"), headers=(("traceparent", PARENT.encode()),)
    )
    harness.send(harness.notification("0.png", name="ObjectTagging:Put"), headers=(("traceparent", b"of no form"),))
    harness.work()
    spans = [
        {
            "name": span.name,
            "trace": f"{span.context.trace_id:032x}" if span.context else "",
            "span": f"{span.context.span_id:016x}" if span.context else "",
            "parent": f"{span.parent.span_id:016x}" if span.parent else None,
            "links": [f"{link.context.span_id:016x}" for link in span.links],
            "attributes": dict(span.attributes or {}),
            "linked traces": [f"{link.context.trace_id:032x}" for link in span.links],
        }
        for span in exporter.get_finished_spans()
    ]
    sent = [
        dict(record.headers).get("traceparent") or b""
        for topic in (OUT, SKIPPED)
        for record in harness.broker.visible(topic)
    ]
    page = telemetry.open_metrics_page().decode()
    telemetry.close()
    json.dump({"spans": spans, "sent": [value.decode() for value in sent], "page": page}, sys.stdout)


if __name__ == "__main__":
    main()
