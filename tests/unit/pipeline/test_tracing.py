"""One trace per event across headers, one span per batch with links to its pictures."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.unit.pipeline.rig import OUT, Rig
from tests.unit.pipeline.traced import PARENT


def test_without_a_tracer_the_producers_trace_passes_through() -> None:
    rig = Rig()
    rig.put("a.png", (200, 0, 0))
    rig.send(rig.event("a.png"), headers=(("traceparent", PARENT.encode()), ("tracestate", b"vendor=1")))
    with rig.running():
        rig.settled()
    [record] = rig.broker.visible(OUT)
    assert dict(record.headers)["traceparent"] == PARENT.encode()
    assert dict(record.headers)["tracestate"] == b"vendor=1"


def test_with_a_tracer_every_event_has_a_span_in_the_producers_trace_and_batches_link_to_them() -> None:
    command = [sys.executable, "-m", "tests.unit.pipeline.traced"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    _, trace_id, producer, _ = PARENT.split("-")
    events = [span for span in found["spans"] if span["name"] == "annotate image"]
    assert [(span["trace"], span["parent"]) for span in events] == [(trace_id, producer)] * 3
    ids = {span["span"] for span in events}
    batches = [span for span in found["spans"] if span["name"] == "annotate batch"]
    assert sorted(link for batch in batches for link in batch["links"]) == sorted(ids)
    assert {value.split("-")[2] for value in found["sent"]} == ids
