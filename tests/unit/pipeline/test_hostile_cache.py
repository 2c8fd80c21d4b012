"""A cache in which another client wrote: every entry that could not be ours is a miss, and the worker goes on."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from schemas.enriched_image import EnrichedImage
from tagstream_testing.memory import MemoryResultCache
from tests.support.harness import EchoCaptioner, Harness
from tests.support.waiting import eventually
from workers import metrics

RED = (250, 20, 20)

Damage = Callable[[str, bytes], bytes]


class WritableCache(MemoryResultCache):
    """Lets a test overwrite what stands in it, as any client can that may write to Redis."""

    def overwrite(self, level: str, damage: Damage) -> int:
        """Every entry of this level; answers how many there were."""
        damaged = 0
        for key, (until, value) in list(self._values.items()):
            if f":{level}:" in f":{key}":
                self._values[key] = (until, damage(key, value))
                damaged += 1
        for name, (until, fields) in list(self._hashes.items()):
            if f":{level}:" in f":{name}":
                self._hashes[name] = (until, {field: damage(name, value) for field, value in fields.items()})
                damaged += 1
        return damaged


def changed(**more: Any) -> Damage:
    return lambda _, value: json.dumps(orjson.loads(value) | more).encode()


def scores(*pairs: tuple[int, float]) -> Damage:
    ids, values = zip(*pairs, strict=True)
    return lambda *_: struct.pack(f"<4sI{len(ids)}i{len(ids)}f", b"tss1", len(ids), *ids, *values)


WRONG: list[tuple[str, Damage]] = [
    ("scores", scores((0, 7.5))),
    ("scores", scores((0, -1.0))),
    ("scores", scores((1, 0.9), (0, 0.8))),
    ("scores", scores((2, 0.9), (3, 0.9))),
    ("scores", scores((0, float("nan")))),
    ("caption", changed(score=float("nan"))),
    ("caption", changed(text="\x1b]0;mine\x07")),
    ("caption", changed(text=["a", "list"])),
    ("source", changed(width=-1)),
    ("source", changed(size=0)),
    ("source", changed(last_modified="yesterday")),
    ("source", changed(sha256="../../etc/passwd")),
    ("source", changed(format=7)),
    ("source", lambda *_: b"[" * 100_000),
    ("sequencer", lambda *_: b"not hexadecimal"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("level", "damage"), WRONG)
def test_a_wrong_entry_is_a_miss_and_is_counted(level: str, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    causes: list[object] = []
    monkeypatch.setattr(metrics.CACHE_ERRORS, "add", lambda *_, **labels: causes.append(labels["cause"]))
    harness = Harness()
    harness.captioner = EchoCaptioner()
    harness.cache = cache = WritableCache()
    etag = harness.put("a.png", RED)
    event = harness.event("a.png", etag=etag, sequencer="01")
    with harness.running():
        harness.send(event)
        harness.settled()
        [first] = harness.outputs()
        eventually(lambda: cache.overwrite(level, damage) > 0)
        harness.send(event)
        harness.settled()
    again = harness.outputs()[1]
    ignored = {"event", "cache", "timings_ms", "produced_at", "version"}
    assert again.model_dump(exclude=ignored) == first.model_dump(exclude=ignored)
    assert not harness.dead()
    assert set(causes) == {"invalid"}


def test_what_is_known_of_one_stores_objects_is_nothing_to_another() -> None:
    """Two stores with a bucket of one name, on one Redis: a sequencer of the one must not silence the other."""
    harness = Harness()
    etag = harness.put("a.png", RED)
    harness.send(harness.event("a.png", etag=etag, sequencer="FF"))
    with harness.running(s3_endpoint="http://one:9000"):
        harness.settled()
    harness.send(harness.event("a.png", etag=etag, sequencer="01"))
    with harness.running(s3_endpoint="http://other:9000"):
        harness.settled()
    assert not harness.skips()
    assert [item.cache.source for item in harness.outputs() if isinstance(item, EnrichedImage)] == ["miss", "miss"]
