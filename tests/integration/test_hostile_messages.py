"""Messages that are made to hurt, on a real worker: it stays alive meanwhile, and what they become is bounded."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.backends.kafka import KafkaEmitter
from workers.types import Headers, Message

pytestmark = pytest.mark.timeout(240)

N = 900_000
"""Bytes of each: what a broker takes by default is a little more."""
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    return Site(stack, unique("messages"), partitions=1)


def hostile(site: Site) -> list[bytes]:
    event: dict[str, Any] = json.loads(site.own("cat.jpg", more="Records"))  # may be as long as a list of S3's
    made = [
        event | {"schema": "image-event/" + "a." * (N // 2)},
        {"TopicArn": "x", "Type": "a://" * (N // 4), "more": "Records"},
        event | {"options": {"guide_tags": [1] * (N // 3)}},
        event | {"key": "a\0b"},
        event | {"etag": "é"},
    ]
    raw = (
        b'{"a":' * (N // 5),
        b"9" * N,
        b'{"a":[' + b"[]," * (N // 3) + b"[]]}",
        b'{"key":"\\ud800"}',
        b"\xff\xfe{\0}\0",
    )
    return [*(json.dumps(each).encode() for each in made), *raw]


def removals(site: Site, count: int) -> bytes:
    s3 = {"bucket": {"name": site.name}, "object": {"key": "gone.jpg"}}
    return json.dumps({"Records": [{"eventName": "ObjectRemoved:Delete", "s3": s3}] * count}).encode()


@contextmanager
def asked_all_the_time(process: WorkerProcess) -> Iterator[list[float]]:
    """Seconds that each answer on /livez took; infinite where it was none."""
    took: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            started = time.monotonic()
            status, _ = process.get("/livez")
            took.append(time.monotonic() - started if status == 200 else float("inf"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        over.set()
        asking.join()


def test_a_worker_lives_through_hostile_messages_and_what_they_become_is_bounded(site: Site, tmp_path: Path) -> None:
    site.upload("cat.jpg", photo(1))
    good = site.own("cat.jpg")
    with worker(site, "one", tmp_path) as process:
        process.wait_ready()
        with asked_all_the_time(process) as took, KafkaEmitter(site.stack.kafka.servers) as emitter:
            for value in (good, *hostile(site), removals(site, 1_000), removals(site, 1_001), good):
                key: bytes = b"k"
                headers: Headers = ()
                if b"ObjectRemoved" in value:
                    key, headers = b"k" * 300_000, (("traceparent", TRACE), ("tracestate", b"v" * 300_000))
                emitter.send(site.images, key, value, headers)
            emitter.flush()
            eventually(lambda: site.behind() == 0, 60, process.said)
        assert process.terminate() == 0, process.said()
    assert max(took) < 5, "a message froze the worker"
    enriched = [found for found in site.outputs() if isinstance(found, EnrichedImage)]
    assert [found.event.offset for found in enriched] == [0, 13]
    letters = Counter(failure.reason for dead_letter in site.letters() for failure in dead_letter.failures)
    assert letters == {"schema": 3, "not-an-event": 1, "undecodable": 6, "too-many-records": 1}
    written = [seen for seen in site.read(site.enriched) if b"image-retraction/1" in seen.value]
    assert len(written) == 1_000
    assert sum(Message(seen.topic, seen.key, seen.value, seen.headers).size for seen in written) < 1_500_000
    assert {name for seen in written for name, _ in seen.headers} == {
        "traceparent",
        "tagstream-input-key-sha256",
        "tagstream-version",
    }
