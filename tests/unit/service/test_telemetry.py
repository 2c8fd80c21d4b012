"""Providers: every metric of the product on the page, OTLP only where it is asked for."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.otlp import otlp_receiver
from workers.service.telemetry import make_telemetry

INSTALLED_PROGRAM = """
from opentelemetry import trace
from workers import metrics
from workers.service.telemetry import make_telemetry

telemetry = make_telemetry(instance="w1", version="1.2.3", otlp_traces=False, otlp_metrics=False)
telemetry.install()
for instrument in vars(metrics).values():
    if isinstance(instrument, metrics.Counter):
        instrument.add(2)
    elif isinstance(instrument, metrics.ObservedGauge):
        instrument.add(lambda: [(2, {})])
    elif isinstance(instrument, metrics.Histogram):
        instrument.record(0.02)
page = telemetry.metrics_page().decode()
for metric in metrics.ALL:
    end = {"counter": " 2.0", "gauge": " 2.0", "histogram": "_count 1.0"}[metric.kind]
    assert f"\\n{metric.exposed}{end}\\n" in page, metric
    assert metric.meaning in page, metric
assert 'messaging_process_duration_seconds_bucket{le="0.025"} 1.0' in page
assert 'service_instance_id="w1"' in page and 'service_name="tagstream"' in page
assert "process_resident_memory_bytes" in page
with trace.get_tracer("t").start_as_current_span("s") as span:
    assert not span.is_recording()
telemetry.close()
"""


def test_every_metric_is_on_the_page_under_the_name_of_the_list() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", INSTALLED_PROGRAM], check=True, timeout=60)


def test_the_service_is_named_by_opentelemetrys_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "images")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    telemetry = make_telemetry(instance="w1", version="1", otlp_traces=False, otlp_metrics=False)
    telemetry.meter_provider.get_meter("t").create_counter("c").add(1)
    page = telemetry.metrics_page().decode()
    telemetry.close()
    assert 'service_name="images"' in page
    assert 'deployment_environment="test"' in page


def test_traces_and_metrics_leave_over_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        telemetry = make_telemetry(instance="w1", version="1", otlp_traces=True, otlp_metrics=True)
        assert telemetry.tracer_provider is not None
        telemetry.tracer_provider.get_tracer("t").start_span("s").end()
        telemetry.meter_provider.get_meter("t").create_counter("c").add(1)
        telemetry.close()
    assert {"/v1/traces", "/v1/metrics"} <= set(received.paths)
    assert [(span.name, span.service) for span in received.spans] == [("s", "tagstream")]


@pytest.fixture
def endless() -> Iterator[tuple[str, list[int]]]:
    """A collector whose answers never end: its URL, and the bytes of each answer that were taken before it was left."""
    taken: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 200_000_000:
                    sent += self.wfile.write(b"x" * 100_000)
            taken.append(sent)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()
        thread.join()


def test_of_a_collectors_answer_no_more_is_taken_than_its_status(
    endless: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, taken = endless
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    telemetry = make_telemetry(instance="w1", version="1", otlp_traces=True, otlp_metrics=True)
    assert telemetry.tracer_provider is not None
    telemetry.tracer_provider.get_tracer("t").start_span("s").end()
    telemetry.meter_provider.get_meter("t").create_counter("c").add(1)
    telemetry.close()
    assert len(taken) >= 1
    assert max(taken) < 20_000_000  # what fits into the sockets' buffers
