"""From a record to what is answered without its image, and what every answer takes along from the record."""

from __future__ import annotations

import json
from typing import Any

from schemas.dead_letter import ONLY, Failure, input_key
from schemas.enriched_image import Retraction, Skip
from tests.support.harness import BUCKET, png
from tests.support.manual_pipeline import ManualPipeline
from tests.support.outcomes import read
from workers.types import Headers, Record

TRACE: Headers = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
RED = png((255, 0, 0))


def come(manual: ManualPipeline, value: Any, *, key: bytes | None = None, headers: Headers = ()) -> None:
    assignment = manual.assignments[0]
    offset, manual._next[0] = manual._next[0], manual._next[0] + 1
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    manual.pipeline.take(Record(assignment.partition, offset, 0, key, body, headers, assignment))
    manual.turn()


def notification(name: str, key: str, **more: str) -> dict[str, Any]:
    return {
        "Records": [
            {
                "eventSource": "minio:s3",
                "eventName": f"s3:{name}",
                "eventTime": "2026-01-02T03:04:05Z",
                "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, **more}},
            }
        ]
    }


def event(manual: ManualPipeline, key: str) -> dict[str, Any]:
    etag = manual.store.put(BUCKET, key, RED).etag
    return {"schema": "image-event/1", "id": key, "bucket": BUCKET, "key": key, "etag": etag}


def commit(manual: ManualPipeline) -> None:
    """Tell the cache what it is told after a commit."""
    ready = manual.pipeline.ledger.ready(1_000, 1_000_000)
    assert ready is not None
    manual.pipeline.ledger.settle(ready)
    manual.pipeline.lookup.committed([write for entry in ready.entries for write in entry.after_commit])
    manual.pipeline.lookup.work()


def test_every_answer_takes_the_records_key_and_trace_along() -> None:
    manual = ManualPipeline()
    come(manual, event(manual, "red"), key=b"its key", headers=TRACE)
    come(manual, notification("ObjectRemoved:Delete", "gone"), key=b"its key", headers=TRACE)
    found = manual.messages()
    assert len(found) == 2
    for message in found:
        assert {*TRACE, *input_key(b"its key")} <= set(message.headers)


def test_what_needs_no_image_is_answered_without_one() -> None:
    manual = ManualPipeline()
    come(manual, b"no event")
    come(manual, notification("ObjectRemoved:Delete", "red", versionId="v1"))
    come(
        manual, notification("ObjectCreated:Put", "red"), headers=((ONLY, b"7"),)
    )  # a replay for another of its events
    outcomes = [read(outcome) for found in manual.done.values() for outcome in found]
    assert [type(outcome) for outcome in outcomes] == [Failure, Retraction, Skip]
    assert manual.reads == []
    assert not manual.in_flight


def test_an_object_that_was_removed_is_read_again_when_it_is_back_though_its_results_are_known() -> None:
    """Guard: `removal`; an object under the name of one that was deleted may differ in more than its etag tells."""
    manual = ManualPipeline()
    come(manual, event(manual, "red"))
    commit(manual)
    come(manual, event(manual, "red"))
    assert manual.reads == ["red"]
    manual.store.remove(BUCKET, "red")
    come(manual, notification("ObjectRemoved:Delete", "red"))
    commit(manual)
    come(manual, event(manual, "red"))
    assert manual.reads == ["red", "red", "red"], "read, looked at, read"
