"""One trace for each event across headers, one span for each batch with links to its images."""

import json
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, get_current_span

from tests.support.harness import OUT, Harness
from tests.support.measured import read_open_metrics
from tests.unit.pipeline.traced import PARENT
from workers.pipeline.tracing import batch, carried, example, inherited, start
from workers.types import Coordinates, Headers


def test_without_a_tracer_the_producers_trace_passes_through(harness: Harness) -> None:
    harness.put("a.png", (200, 0, 0))
    harness.send(harness.event("a.png"), headers=(("traceparent", PARENT.encode()), ("tracestate", b"vendor=1")))
    harness.work()
    [record] = harness.broker.visible(OUT)
    assert dict(record.headers)["traceparent"] == PARENT.encode()
    assert dict(record.headers)["tracestate"] == b"vendor=1"


STATE = b"v=" + b"1" * 510
ZERO_TRACE = b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"
ZERO_SPAN = b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01"
GOOD = ("traceparent", PARENT.encode())


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ((), ()),
        ((GOOD,), (GOOD,)),
        ((("tracestate", STATE), ("other", b"1"), GOOD), (GOOD, ("tracestate", STATE))),
        ((GOOD, ("tracestate", STATE + b"1")), (GOOD,)),
        ((GOOD, ("tracestate", b"v=\xff")), (GOOD,)),
        ((GOOD, ("tracestate", b"")), (GOOD,)),
        ((GOOD, ("tracestate", None)), (GOOD,)),
        ((GOOD, ("tracestate", b"v=1"), ("tracestate", b"v=2")), (GOOD,)),
        ((("tracestate", STATE),), ()),
        ((GOOD, GOOD), ()),
        ((("traceparent", None),), ()),
        ((("traceparent", PARENT.encode() + b"\n"),), ()),
        ((("traceparent", PARENT.encode() * 10_000),), ()),
        ((("traceparent", PARENT.upper().encode()),), ()),
        ((("traceparent", b"ff" + PARENT.encode()[2:]),), ()),
        ((("traceparent", ZERO_TRACE),), ()),
        ((("traceparent", ZERO_SPAN),), ()),
    ],
)
def test_a_producers_trace_context_passes_as_far_as_it_is_valid_and_short(headers: Headers, passed: Headers) -> None:
    assert inherited(headers) == passed


def test_a_faulty_tracestate_is_not_logged_for_every_event(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        start("x", Coordinates("images", 0, 0, 0), inherited((GOOD, ("tracestate", STATE)))).end()
    assert not caplog.records


@pytest.fixture(scope="module")
def traced() -> Any:
    command = [sys.executable, "-m", "tests.unit.pipeline.traced"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


@pytest.mark.slow
def test_with_a_tracer_every_event_is_a_trace_of_its_own_that_links_to_the_producers(traced: Any) -> None:
    _, trace_id, producer, _ = PARENT.split("-")
    events = [span for span in traced["spans"] if span["name"] != "annotate batch"]
    assert len(events) == 5
    assert len({span["trace"] for span in events} - {trace_id}) == 5
    assert [span["parent"] for span in events] == [None] * 5
    linked = [list(zip(span["linked traces"], span["links"], strict=True)) for span in events]
    assert sorted(linked) == [[], *[[(trace_id, producer)]] * 4]


@pytest.mark.slow
def test_with_a_tracer_every_outcome_carries_its_events_own_span(traced: Any) -> None:
    ids = {span["span"] for span in traced["spans"] if span["name"] != "annotate batch"}
    assert len(traced["sent"]) == 5
    assert {value.split("-")[2] for value in traced["sent"]} == ids


@pytest.mark.slow
def test_batches_link_to_the_spans_of_their_images(traced: Any) -> None:
    ids = [span["span"] for span in traced["spans"] if span["name"] == "annotate image"]
    batches = [span for span in traced["spans"] if span["name"] == "annotate batch"]
    assert sorted(link for batch in batches for link in batch["links"]) == sorted(ids)


def test_a_batch_of_unrecorded_events_has_no_span() -> None:
    with batch([INVALID_SPAN, NonRecordingSpan(INVALID_SPAN.get_span_context())]) as span:
        assert span is None
        assert get_current_span() is INVALID_SPAN


@pytest.mark.slow
def test_an_events_span_has_the_attributes_of_opentelemetrys_messaging_conventions(traced: Any) -> None:
    events = [span["attributes"] for span in traced["spans"] if span["name"] == "annotate image"]
    assert {attributes.pop("messaging.kafka.offset") for attributes in events} == {0, 1, 2}
    for attributes in events:
        assert {name: value for name, value in attributes.items() if name.startswith("messaging.")} == {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "annotate image",
            "messaging.destination.name": "images",
            "messaging.destination.partition.id": "0",
        }


@pytest.mark.slow
def test_an_events_span_says_which_object_it_is_about(traced: Any) -> None:
    """One query by key or id finds it, whether the image was needed or not."""
    events = [span["attributes"] for span in traced["spans"] if span["name"] != "annotate batch"]
    told = {(told.get("tagstream.subject"), told.get("tagstream.event_id", "")[:3]) for told in events}
    assert {(f"photos/{number}.png", "id-") for number in range(3)} <= told
    assert [subject for subject, _ in told if subject == "photos/gone.png"]
    assert {told["tagstream.index"] for told in events} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["messaging_process_duration_seconds", "tagstream_stage_seconds"])
def test_a_latency_leads_to_the_trace_of_an_image_with_this_latency(traced: Any, name: str) -> None:
    [family] = [found for found in read_open_metrics(traced["page"]) if found.name == name]
    exemplars = [sample.exemplar.labels for sample in family.samples if sample.exemplar]
    known = {(span["trace"], span["span"]) for span in traced["spans"] if span["name"] != "annotate batch"}
    assert exemplars, traced["page"]
    assert {(labels["trace_id"], labels["span_id"]) for labels in exemplars} <= known


def test_only_a_span_that_is_recorded_is_an_example() -> None:
    unsampled = carried((("traceparent", PARENT[:-2].encode() + b"00"),))
    recorded = carried((GOOD,))
    assert recorded is not None
    assert example([None, unsampled]) is None
    found = example([None, unsampled, recorded])
    assert get_current_span(found).get_span_context() == recorded
