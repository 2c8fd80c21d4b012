"""A reader of a warning can find the record: each names it as `topic:partition:offset`."""

from __future__ import annotations

import logging
import re

import pytest

from tests.support.harness import BUCKET, POISON, Harness
from workers.errors import Unavailable
from workers.pipeline.task import named
from workers.testing.memory_broker import Fault
from workers.types import Coordinates


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


def test_of_a_large_batch_three_records_are_named() -> None:
    images = [Coordinates("images", 0, offset, 0) for offset in range(5)]
    assert named(images[:1]) == "images:0:0, index 0"
    assert named(images) == "images:0:0, index 0; images:0:1, index 0; images:0:2, index 0 and 2 more"
