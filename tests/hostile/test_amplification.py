"""A few bytes that become many: what one record, or one batch of them, makes of the output topics and of memory."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from schemas.correction import correction
from tests.fixtures import Stack
from tests.hostile.scene import Batch, Scene
from tests.hostile.test_hostile import MIB
from tests.support.raw_kafka import batch, produce, record
from tests.support.worker_process import photo
from workers.backends.kafka import ensure_topics

pytestmark = pytest.mark.timeout(300)

OTHERS_WITHIN_S = 10.0
EVENTS = 1_000


def notification(scene: Scene, key: str) -> bytes:
    """So many events of one image."""
    event = {
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": scene.site.name}, "object": {"key": key}},
    }
    return json.dumps({"Records": [event] * EVENTS}).encode()


def test_corrections_of_one_image_make_little_of_a_message_that_names_it_a_thousand_times(
    stack: Stack, tmp_path: Path
) -> None:
    said = f"said-{uuid.uuid4().hex[:8]}"
    ensure_topics(stack.kafka.servers, {said: (1, {"cleanup.policy": "delete"})})
    with Scene.started(stack, tmp_path, TAGSTREAM_CORRECTIONS_TOPIC=said) as scene:
        scene.site.upload("corrected.jpg", photo(1, 48))
        most = correction(scene.site.name, "corrected.jpg", added=[f"{n:03}" + "x" * 97 for n in range(200)])
        documents = [json.loads(most.value or b"") | {"added": [f"{n}-{at:04}".ljust(100, "x") for at in range(1_000)]}
                     for n in range(9)]  # fmt: skip
        for value in (most.value, *(json.dumps(document).encode() for document in documents)):
            assert produce(stack.kafka.servers, said, 0, batch([record(value, key=most.key)]))[0] == 0
        held = scene.worker.peak_memory()
        batches = [Batch("a thousand events", batch([record(notification(scene, "corrected.jpg"))]))] * 3
        verdict = scene.attack("corrections", batches)
        assert verdict.outcomes["enriched"] + verdict.outcomes["too-many-records"] >= 3 * EVENTS
        assert verdict.outcomes["too-many-records"] > 0
        sizes = [len(seen.value) for seen in scene.site.read(scene.site.enriched)]
        assert sum(sizes) < 3 * 16 * MIB + MIB
        assert scene.worker.peak_memory() - held < 300 * MIB
        assert verdict.others_s < OTHERS_WITHIN_S
        assert scene.site.audit().proved
