"""The OpenMetrics page: the same metrics as the text page, and traces behind the buckets of histograms."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import Metric

from tests.support.metrics_pages import read_open_metrics, read_text
from workers.service.telemetry import Telemetry, make_telemetry

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


def record(telemetry: Telemetry, value: float, context: Context, name: str = NAME, **labels: str) -> None:
    meter = telemetry.meter_provider.get_meter("t")
    histogram = meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=BOUNDS)
    histogram.record(value, {label.replace("_", "."): value for label, value in labels.items()}, context)


def exemplars(telemetry: Telemetry) -> dict[tuple[str, str], tuple[int, float]]:
    """By (label, le): the trace, and what was measured."""
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
        record(telemetry, value, span(number), of_stage="fetch")
    record(telemetry, 0.7, span(9))
    assert exemplars(telemetry) == {
        ("fetch", "0.005"): (1, 0.005),
        ("fetch", "0.5"): (3, 0.5),
        ("fetch", "+Inf"): (4, 7.0),
        ("", "1.0"): (9, 0.7),
    }


def test_an_exemplar_names_trace_and_span_in_hexadecimal_and_its_time(telemetry: Telemetry) -> None:
    record(telemetry, 0.1, span(0xAB))
    [line] = [line for line in telemetry.open_metrics_page().decode().splitlines() if " # " in line]
    labels, value, at = line.partition(" # ")[2].split(" ")
    assert labels == '{span_id="00000000000000ab",trace_id="000000000000000000000000000000ab"}'
    assert (float(value), abs(float(at) - time.time()) < 60) == (0.1, True)


def test_a_span_that_is_not_sampled_is_no_exemplar(telemetry: Telemetry) -> None:
    record(telemetry, 0.1, span(1, sampled=False))
    record(telemetry, 0.1, Context())
    assert exemplars(telemetry) == {}


def test_another_scraper_takes_no_exemplar_away(telemetry: Telemetry) -> None:
    record(telemetry, 0.1, span(1))
    telemetry.metrics_page()
    telemetry.open_metrics_page()
    assert exemplars(telemetry) == {("", "0.5"): (1, 0.1)}
    record(telemetry, 0.2, span(2))
    assert exemplars(telemetry) == {("", "0.5"): (2, 0.2)}


def test_a_histogram_that_is_none_of_ours_has_no_exemplars(telemetry: Telemetry) -> None:
    record(telemetry, 0.1, span(1), name="another")
    assert exemplars(telemetry) == {}


def test_both_pages_tell_the_same(telemetry: Telemetry) -> None:
    record(telemetry, 0.1, span(1), of_stage='a\\ "b"\n')
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
        if not sample.name.startswith("process_")  # goes on while it is asked
    }
