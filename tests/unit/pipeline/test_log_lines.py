"""A reader of a warning can find the record: each names it as `topic:partition:offset`."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext

from tagstream_testing.memory_broker import Fault
from tests.support.harness import BUCKET, POISON, Harness
from tests.support.tasks import a_task
from workers.errors import Unavailable
from workers.pipeline.task import TaskNames
from workers.types import Coordinates, HasLogFields


def test_every_warning_of_the_pipeline_names_its_record(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(partitions=1)
    harness.broker.fail_next(Fault.SEND)
    harness.put("poison.png", POISON)
    harness.put("sound.png", (255, 0, 0))
    harness.store.fail(BUCKET, "sound.png", Unavailable("s3", "away"), times=1)
    with caplog.at_level(logging.WARNING), harness.running():
        harness.send(harness.event("poison.png"))
        harness.send(harness.event("sound.png"))
        harness.settled()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("workers.pipeline")]
    for about in ("the model failed", "the object store fails", "a transaction of"):
        told = [line for line in lines if line.startswith(about)]
        assert told, about
        assert all(re.search(r"\bimages:0:\d+\b", line) for line in told), told


def test_of_a_large_batch_three_records_are_named_and_all_events_are_fields() -> None:
    tasks = [a_task(event={"id": f"id-{number}"}) for number in range(5)]
    for offset, task in enumerate(tasks):
        task.job = replace(task.job, coordinates=Coordinates("images", 0, offset, 0))
    assert str(TaskNames(tasks[:1])) == "images:0:0, index 0"
    assert str(TaskNames(tasks)) == "images:0:0, index 0; images:0:1, index 0; images:0:2, index 0 and 2 more"
    assert TaskNames(tasks[:1]).log_fields(keys=False) == tasks[0].log_fields(keys=False)
    assert TaskNames(tasks).log_fields(keys=False) == {"tagstream.event_ids": [f"id-{number}" for number in range(5)]}


def test_a_line_about_a_task_has_its_record_its_event_and_its_trace_as_fields() -> None:
    task = a_task(event={"id": "41"})
    task.span = NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False))
    record = {"tagstream.topic": "images", "tagstream.partition": 0, "tagstream.offset": 0, "tagstream.index": 0}
    trace = {"trace_id": f"{0xA:032x}", "span_id": f"{0xB:016x}"}
    assert task.log_fields(keys=False) == {**record, "tagstream.event_id": "41", **trace}
    assert task.log_fields(keys=True)["tagstream.subject"] == "photos/a.png"


def test_at_debug_level_every_image_has_a_line_at_its_beginning_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness(partitions=1)
    harness.put("poison.png", POISON)
    harness.put("sound.png", (255, 0, 0))
    with caplog.at_level(logging.DEBUG), harness.running():
        harness.send(harness.event("poison.png"))
        harness.send(harness.event("sound.png"))
        harness.send(harness.notification("gone.png", name="ObjectRemoved:Delete"))
        harness.settled()
    said = [
        (argument.log_fields(keys=True)["tagstream.subject"], record.getMessage())
        for record in caplog.records
        if isinstance(record.args, tuple) and record.args and isinstance(argument := record.args[0], HasLogFields)
    ]
    assert sorted(
        (str(subject), re.sub(r",? (after|the model raised) .*", "", message)) for subject, message in said
    ) == [
        ("photos/gone.png", "images:0:2, index 0 is answered without the image: Removed"),
        ("photos/poison.png", "images:0:0, index 0 is done: dead letter, annotate-failed in annotate:"),
        ("photos/poison.png", "images:0:0, index 0 is taken"),
        ("photos/sound.png", "images:0:1, index 0 is done: enriched"),
        ("photos/sound.png", "images:0:1, index 0 is taken"),
    ]
