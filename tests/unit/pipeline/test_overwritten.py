"""An image that waited for an equal one is read again where that one was dropped, and may have other bytes by then."""

from __future__ import annotations

import json
from typing import Any

from tests.support.harness import BUCKET, png
from tests.support.manual_pipeline import ManualPipeline
from workers.types import Document

OLD, NEW = png((1, 2, 3)), png((200, 5, 5))


def shown(manual: ManualPipeline, partition: int) -> dict[str, Any]:
    """The outcome's content and results."""
    [outcome] = manual.done[partition, 0, 0]
    assert isinstance(outcome, Document)
    event = json.loads(outcome.value)
    return {"sha256": event["source"]["sha256"], "tags": event["tags"]}


def alone(body: bytes) -> dict[str, Any]:
    """As an image of these bytes comes out that meets no other."""
    manual = ManualPipeline()
    manual.store.put(BUCKET, "a", body)
    manual.events("a")
    manual.turn()
    return shown(manual, 0)


def test_an_object_that_was_overwritten_while_it_waited_leads_those_no_more_that_it_was_equal_to() -> None:
    manual = ManualPipeline(partitions=4)
    for partition, key in enumerate("abcd"):
        manual.store.put(BUCKET, key, OLD)
        manual.events(key, partition=partition)
    manual.pipeline.parse.work()
    while len(manual.pipeline.lookup):
        manual.pipeline.lookup.work()
    assert manual.in_flight == {"wait-device": 1, "wait-equal": 3}
    manual.store.put(BUCKET, "b", NEW)
    manual.assignments[0].end()
    manual.turn()
    assert [shown(manual, partition) for partition in (1, 2, 3)] == [alone(NEW), alone(OLD), alone(OLD)]
    assert manual.reads == [*"abcd", "b", "c"]
