"""A store that refuses or lacks a thousand objects of one message: they cost their own partition, and no other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import Stack
from tests.hostile.scene import Batch, Scene
from tests.support.lying_store import Lie, errs
from tests.support.raw_kafka import batch, record

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

OBJECTS = 1_000
OTHERS_WITHIN_S = 10.0
REFUSALS: tuple[tuple[Lie, str], ...] = (
    (errs(403, "AccessDenied"), "forbidden"),
    (errs(400, "InvalidRequest", "The object was stored using a form of Server Side Encryption"), "unreadable"),
)


def created(bucket: str, keys: list[str]) -> Batch:
    """One message of S3's own kind that names these objects."""
    named = [
        {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
        for key in keys
    ]
    value = record(json.dumps({"Records": named}).encode())
    return Batch(f"{len(keys)} objects of a message", batch([value], timestamp=int(time.time() * 1000)))


def refused(scene: Scene, bucket: str) -> Batch:
    keys = [f"refused-{number}.jpg" for number in range(OBJECTS)]
    scene.store.lies |= {key: REFUSALS[number % 2][0] for number, key in enumerate(keys)}
    return created(bucket, keys)


def test_refused_objects_silence_no_partition_of_a_worker_that_has_read_nothing(stack: Stack, tmp_path: Path) -> None:
    with Scene.started(stack, tmp_path) as scene:
        verdict = scene.attack("refused objects", [refused(scene, scene.site.name)], 10.0, others_first=False)
        assert verdict.others_s <= OTHERS_WITHIN_S
        assert verdict.outcomes == {reason: OBJECTS / 2 for _, reason in REFUSALS}
        assert scene.worker.get("/readyz")[0] == 200


def test_refused_objects_of_a_bucket_that_was_never_read_silence_no_other_bucket(
    stack: Stack, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    fresh = unique("fresh")
    with Scene.started(stack, tmp_path, also=fresh) as scene:
        scene.attack("none", [], 3.0)
        scene.site.store.make_bucket(fresh)
        scene.bucket_of[3] = fresh
        verdict = scene.attack("refused objects of a fresh bucket", [refused(scene, fresh)], 10.0, others_first=False)
        assert verdict.others_s <= OTHERS_WITHIN_S
        assert verdict.outcomes == {reason: OBJECTS / 2 for _, reason in REFUSALS}
        assert scene.worker.get("/readyz")[0] == 200


def test_absent_objects_of_three_messages_hold_neither_their_partition_nor_others(stack: Stack, tmp_path: Path) -> None:
    """Guard: they are asked for again without a thread, and once if the message is older than seconds."""
    with Scene.started(stack, tmp_path) as scene:
        batches = [created(scene.site.name, [f"absent-{n}-{m}.jpg" for m in range(OBJECTS)]) for n in range(3)]
        verdict = scene.attack("absent objects", batches)
        assert verdict.others_s <= OTHERS_WITHIN_S
        assert verdict.outcomes == {"skip": 3 * OBJECTS}
