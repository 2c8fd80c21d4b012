"""Records that cost much or cut in: cheap JSON, events that become many, added partitions, open transactions."""

import gzip
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from schemas.correction import correction
from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack, Unique
from tests.hostile.scene import Batch, Scene
from tests.hostile.test_hostile import MIB
from tests.hostile.witness import Witness
from tests.support.raw_kafka import GZIP, ZSTD, batch, produce, record
from tests.support.waiting import eventually
from tests.support.worker_process import Seen, Site, photo, worker
from workers.backends.kafka import ensure_topics

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

OTHERS_WITHIN_S = 10.0
BYTES = 4 << 20
"""Of JSON in one message; some 500 on the wire."""


def _lists(before: bytes) -> bytes:
    return before + b"[]," * ((BYTES - len(before) - 4) // 3) + b"[]]}"


def _members(before: bytes, count: int = 400_000) -> bytes:
    """No list in it, and each name another."""
    return before + b",".join(b'"%x":0' % number for number in range(count)) + b"}"


def _most(before: bytes) -> bytes:
    members = _members(before + b"[]," * 49_000 + b'[]],"x":"', 0)[:-1] + b"y" * 2_500_000 + b'",'
    return _members(members, 50_000)


def cheap_messages(times: int = 50) -> Iterator[Batch]:
    zstd = zstandard.ZstdCompressor().compress
    made = [
        Batch(kind, batch([record(value)], attributes=codec, compress=compress))
        for kind, value in (
            ("an event with lists", _lists(b'{"schema":"image-event/1","x":[')),
            ("records that are lists", _lists(b'{"Records":[')),
            ("very many members", _members(b'{"Records":[],')),
            ("all that may be read", _most(b'{"Records":[')),
        )
        for codec, compress in ((ZSTD, zstd), (GZIP, gzip.compress))
    ]
    for _ in range(times):
        yield from made


def test_messages_that_are_cheap_to_send_hold_up_no_other_partition(scene: Scene) -> None:
    verdict = scene.attack("cheap JSON", list(cheap_messages()), others_within_s=OTHERS_WITHIN_S)
    assert sum(verdict.kinds.values()) == 400
    assert verdict.outcomes["enriched"] == 0


EVENTS = 1_000
GRAVES = 60_000


def notification(scene: Scene, key: str, name: str = "ObjectCreated:Put") -> bytes:
    event = {"eventName": f"s3:{name}", "s3": {"bucket": {"name": scene.site.name}, "object": {"key": key}}}
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
        verdict = scene.attack("corrections", [attack] * 3, others_within_s=OTHERS_WITHIN_S)
        assert verdict.outcomes["enriched"] + verdict.outcomes["too-many-records"] >= 3 * EVENTS
        assert verdict.outcomes["too-many-records"] > 0
        sizes = [len(seen.value) for seen in scene.site.read(scene.site.enriched)]
        assert sum(sizes) < 3 * 16 * MIB + MIB
        assert scene.worker.peak_memory() - held < 300 * MIB
        assert scene.site.audit().proved


def stored(scene: Scene, topic: str) -> int:
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
        verdict = scene.attack("compression", [*batches[:1] * 2, *batches], others_within_s=OTHERS_WITHIN_S)
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
        assert scene.site.audit().proved


def size(seen: Seen) -> int:
    return len(seen.key or b"") + len(seen.value) + sum(len(name) + len(value or b"") for name, value in seen.headers)


WITHIN_S = 75
"""Clients refresh partitions every 30 s; the rest is for the group to share them out."""


def test_partitions_that_are_added_are_read_within_a_minute(stack: Stack, unique: Unique, tmp_path: Path) -> None:
    site = Site(stack, unique("grows"), partitions=1)
    site.upload("cat.jpg", photo(1, 48))
    servers = stack.kafka.servers
    with worker(site, "w", tmp_path) as process, Witness(site, ()) as witness:
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_partitions([NewPartitions(site.images, 3)])[site.images].result(30)
        places = set()
        for partition in range(3):
            error, offset = produce(servers, site.images, partition, batch([record(site.own("cat.jpg"))]))
            assert error == 0
            places.add((partition, offset))
        eventually(lambda: not witness.unanswered(places), WITHIN_S, process.said)
        assert process.get("/readyz")[0] == 200


@contextmanager
def open_transaction(site: Site, partition: int) -> Iterator[None]:
    producer = Producer(
        {
            "bootstrap.servers": site.stack.kafka.servers,
            "transactional.id": f"{site.name}-attacker",
            "transaction.timeout.ms": 240_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(site.images, site.own("open.jpg"), partition=partition)
    producer.flush(30)
    try:
        yield
    finally:
        producer.abort_transaction(30)


def send(site: Site, partition: int, key: str) -> None:
    site.upload(key, photo(len(key), 48))
    error, _ = produce(site.stack.kafka.servers, site.images, partition, batch([record(site.own(key))]))
    assert error == 0


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("open"), partitions=2)


def answered(site: Site) -> list[str]:
    images = [output for output in site.outputs() if isinstance(output, EnrichedImage)]
    return sorted(image.source.key for image in images)


def test_an_open_transaction_is_reported_while_other_partitions_are_answered(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path) as process, open_transaction(site, 0):
        for number in range(5):
            send(site, 0, f"behind-{number}.jpg")
        send(site, 1, "beside.jpg")
        eventually(lambda: answered(site) == ["beside.jpg"], 60, process.said)

        def told() -> list[str]:
            status, body = process.get("/readyz")
            assert status == 200
            return [str(line) for line in json.loads(body)["reasons"]]

        eventually(lambda: [line.split()[0] for line in told()] == [f"{site.images}:0"], 90, process.said)
        eventually(lambda: f"{site.images}:0 is held up" in process.said(), 30)
        of_it = {"topic": site.images, "partition": "0"}
        assert process.metric("tagstream_held_up_seconds", **of_it) >= 30
        assert process.metric("tagstream_held_up_seconds", topic=site.images, partition="1") == 0
        assert process.metric("tagstream_lag_records", **of_it) == 6
        assert process.metric("tagstream_lag_records", topic=site.images, partition="1") == 0
        send(site, 1, "later.jpg")
        eventually(lambda: answered(site) == ["beside.jpg", "later.jpg"], 60, process.said)


def test_with_read_uncommitted_an_open_transaction_holds_no_partition_up(site: Site, tmp_path: Path) -> None:
    """Records of an aborted transaction are answered like any record, and the audit recognises it."""
    site.upload("open.jpg", photo(1, 48))
    isolation = {"TAGSTREAM_INPUT_ISOLATION": "read_uncommitted"}
    with worker(site, "w", tmp_path, **isolation) as process, open_transaction(site, 0):
        send(site, 0, "behind.jpg")
        eventually(lambda: answered(site) == ["behind.jpg", "open.jpg"], 60, process.said)
        assert process.metric("tagstream_held_up_seconds", topic=site.images) == 0
    report = site.audit(**isolation)
    assert (report.proved, report.records) == (True, 2)
