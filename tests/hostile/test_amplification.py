"""A few bytes that become many: what one record, or one batch of them, makes of the output topics and of memory."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import zstandard

from schemas.correction import correction
from tests.fixtures import Stack
from tests.hostile.scene import Batch, Scene
from tests.hostile.test_hostile import MIB
from tests.support.raw_kafka import ZSTD, batch, produce, record
from tests.support.worker_process import Seen, photo
from workers.backends.kafka import ensure_topics

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

OTHERS_WITHIN_S = 10.0
EVENTS = 1_000
GRAVES = 60_000


def notification(scene: Scene, key: str, name: str = "ObjectCreated:Put") -> bytes:
    """So many events of one image."""
    event = {
        "eventName": f"s3:{name}",
        "s3": {"bucket": {"name": scene.site.name}, "object": {"key": key}},
    }
    return json.dumps({"Records": [event] * EVENTS}).encode()


def corrected(scene: Scene, said: str) -> Batch:
    """A thousand events of an image that has as many corrections as a topic of that name may hold, and more."""
    scene.site.upload("corrected.jpg", photo(1, 48))
    most = correction(scene.site.name, "corrected.jpg", added=[f"{n:03}" + "x" * 97 for n in range(200)])
    documents = [
        json.loads(most.value or b"") | {"added": [f"{n}-{at:04}".ljust(100, "x") for at in range(1_000)]}
        for n in range(9)
    ]
    for value in (most.value, *(json.dumps(document).encode() for document in documents)):
        assert produce(scene.site.stack.kafka.servers, said, 0, batch([record(value, key=most.key)]))[0] == 0
    return Batch("a thousand events", batch([record(notification(scene, "corrected.jpg"))]))


def test_corrections_of_one_image_make_little_of_a_message_that_names_it_a_thousand_times(
    stack: Stack, tmp_path: Path
) -> None:
    said = f"said-{uuid.uuid4().hex[:8]}"
    ensure_topics(stack.kafka.servers, {said: (1, {"cleanup.policy": "delete"})})
    with Scene.started(stack, tmp_path, TAGSTREAM_CORRECTIONS_TOPIC=said) as scene:
        attack = corrected(scene, said)
        held = scene.worker.peak_memory()
        verdict = scene.attack("corrections", [attack] * 3)
        assert verdict.outcomes["enriched"] + verdict.outcomes["too-many-records"] >= 3 * EVENTS
        assert verdict.outcomes["too-many-records"] > 0
        sizes = [len(seen.value) for seen in scene.site.read(scene.site.enriched)]
        assert sum(sizes) < 3 * 16 * MIB + MIB
        assert scene.worker.peak_memory() - held < 300 * MIB
        assert verdict.others_s < OTHERS_WITHIN_S
        assert scene.site.audit().proved


def stored(scene: Scene, topic: str) -> int:
    """Bytes that the broker keeps of a topic."""
    data = scene.site.stack.kafka.folder / "data"
    return sum(log.stat().st_size for log in data.glob(f"{topic}-*/*.log"))


def zipped(records: list[bytes]) -> bytes:
    return batch(records, attributes=ZSTD, compress=zstandard.ZstdCompressor().compress)


def tombstones(count: int = GRAVES) -> Batch:
    return Batch("tombstones", zipped([record(None, key=b"k", delta=delta) for delta in range(count)]), count)


def skips(scene: Scene) -> Batch:
    trace = [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"), (b"tracestate", b"v=" + b"1" * 510)]
    tagged = notification(scene, "a.jpg", "ObjectTagging:Put")
    records = [record(tagged, key=b"k" * 1024, headers=trace, delta=delta) for delta in range(20)]
    return Batch("a thousand skips", zipped(records), 20)


def test_a_few_kilobytes_of_zstd_cause_little_in_the_output_topics(stack: Stack, tmp_path: Path) -> None:
    with Scene.started(stack, tmp_path) as scene:
        held = scene.worker.peak_memory()
        padded = zipped([record(b"%d" % delta + bytes(200_000), delta=delta) for delta in range(100)])
        batches = [tombstones(), skips(scene), Batch("zeros", padded, 100)]
        grave, skipping = len(batches[0].data), len(batches[1].data)
        assert grave + skipping + len(padded) < 150_000
        verdict = scene.attack("compression", [*batches[:1] * 2, *batches])
        assert verdict.outcomes == {"undecodable": 3 * GRAVES + 100, "skip": 20 * EVENTS}

        letters = scene.site.read(scene.site.dead)
        assert len(letters) < 3 * 10 + 100
        assert sum(size(seen) for seen in letters) < 50 * (3 * grave + len(padded)) + 100 * (80 << 10)
        assert stored(scene, scene.site.dead) < MIB
        skipped = scene.site.read(scene.site.skipped)
        inherited = [len(value or b"") for seen in skipped for name, value in seen.headers if name != "traceparent"]
        assert sum(inherited) == 20 * (1024 + 512)
        assert sum(map(size, skipped)) < 50 * skipping + 20 * (64 << 10) + 20 * EVENTS * (16 << 10)
        assert scene.worker.peak_memory() - held < 300 * MIB
        assert verdict.others_s < OTHERS_WITHIN_S
        assert scene.site.audit().proved


def size(seen: Seen) -> int:
    return len(seen.key or b"") + len(seen.value) + sum(len(name) + len(value or b"") for name, value in seen.headers)
