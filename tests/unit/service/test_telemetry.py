"""Providers, the pages of metrics, and the traces behind their buckets."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import Metric

from scripts.fill_tables import metrics_table
from tests.support.measured import read_open_metrics, read_text
from tests.support.otlp import otlp_receiver
from workers import metrics
from workers.service.telemetry import Telemetry, make_telemetry

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


@pytest.mark.slow
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


NAME = "tagstream_stage_seconds"
BOUNDS = [0.005, 0.5, 1.0]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = make_telemetry(instance='w"1', version="1", otlp_traces=False, otlp_metrics=False)
    yield made
    made.close()


def span(number: int, sampled: bool = True) -> Context:
    context = SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(int(sampled)))
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def measure(telemetry: Telemetry, value: float, context: Context, name: str = NAME, **labels: str) -> None:
    meter = telemetry.meter_provider.get_meter("t")
    histogram = meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=BOUNDS)
    histogram.record(value, {label.replace("_", "."): value for label, value in labels.items()}, context)


def exemplars(telemetry: Telemetry) -> dict[tuple[str, str], tuple[int, float]]:
    """By (label, le): the trace, and the measured value."""
    page = telemetry.open_metrics_page().decode()
    [family] = [found for found in read_open_metrics(page) if found.type == "histogram"]
    return {
        (sample.labels.get("of_stage", ""), sample.labels["le"]): (
            int(sample.exemplar.labels["trace_id"], 16),
            sample.exemplar.value,
        )
        for sample in family.samples
        if sample.exemplar
    }


def test_a_bucket_has_the_trace_of_its_last_measurement(telemetry: Telemetry) -> None:
    for number, value in enumerate((0.005, 0.006, 0.5, 7.0), 1):
        measure(telemetry, value, span(number), of_stage="fetch")
    measure(telemetry, 0.7, span(9))
    assert exemplars(telemetry) == {
        ("fetch", "0.005"): (1, 0.005),
        ("fetch", "0.5"): (3, 0.5),
        ("fetch", "+Inf"): (4, 7.0),
        ("", "1.0"): (9, 0.7),
    }


def test_an_exemplar_names_trace_and_span_in_hexadecimal_and_its_time(telemetry: Telemetry) -> None:
    measure(telemetry, 0.1, span(0xAB))
    [line] = [line for line in telemetry.open_metrics_page().decode().splitlines() if " # " in line]
    labels, value, at = line.partition(" # ")[2].split(" ")
    assert labels == '{span_id="00000000000000ab",trace_id="000000000000000000000000000000ab"}'
    assert (float(value), abs(float(at) - time.time()) < 60) == (0.1, True)


def test_a_span_that_is_not_sampled_is_no_exemplar(telemetry: Telemetry) -> None:
    measure(telemetry, 0.1, span(1, sampled=False))
    measure(telemetry, 0.1, Context())
    assert exemplars(telemetry) == {}


def test_another_scraper_takes_no_exemplar_away(telemetry: Telemetry) -> None:
    measure(telemetry, 0.1, span(1))
    telemetry.metrics_page()
    telemetry.open_metrics_page()
    assert exemplars(telemetry) == {("", "0.5"): (1, 0.1)}
    measure(telemetry, 0.2, span(2))
    assert exemplars(telemetry) == {("", "0.5"): (2, 0.2)}


def test_a_foreign_histogram_has_no_exemplars(telemetry: Telemetry) -> None:
    measure(telemetry, 0.1, span(1), name="another")
    assert exemplars(telemetry) == {}


def test_both_pages_tell_the_same(telemetry: Telemetry) -> None:
    measure(telemetry, 0.1, span(1), of_stage='a\\ "b"\n')
    meter = telemetry.meter_provider.get_meter("t")
    meter.create_counter("messaging.client.sent.messages", "{message}", "Messages").add(3)
    meter.create_gauge("tagstream_budget_bytes", "By", "Bytes").set(4)
    told = told_of(read_open_metrics(telemetry.open_metrics_page().decode()))
    assert told == told_of(read_text(telemetry.metrics_page().decode()))
    assert ("messaging_client_sent_messages_total", frozenset(), 3.0) in told
    assert " # " not in telemetry.metrics_page().decode()


def told_of(families: Sequence[Metric]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), float(sample.value))
        for family in families
        for sample in family.samples
        if not sample.name.startswith("process_")  # continues while it is read
    }


PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"


def test_the_table_of_metrics_is_up_to_date() -> None:
    """`scripts/fill_tables.py` repairs this."""
    text = PAGE.read_text(encoding="utf-8")
    assert metrics_table() in text


def test_every_metric_has_a_row_with_its_labels_and_its_meaning() -> None:
    table = metrics_table().splitlines()
    assert len(table) == 2 + len(metrics.ALL)
    for row, metric in zip(table[2:], metrics.ALL, strict=True):
        assert f"`{metric.exposed}`" in row
        assert metric.meaning
        assert all(f"`{label}`" in row for label in metric.exposed_labels)


def test_a_counter_is_named_as_prometheus_shows_it() -> None:
    assert "| `tagstream_transactions_published_total` | counter |" in metrics_table()
    assert "| `messaging_client_sent_messages_total` | counter |" in metrics_table()
