"""Store, Redis, producers, clients and decoders lie in every field: the promises still hold."""

import gzip
import json
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import zstandard

from schemas.enriched_image import EnrichedImage
from tests.chaos.broken_codec import FOLDER, png_that
from tests.fixtures import Stack, Unique
from tests.fuzz import mutators
from tests.fuzz.containers import damaged
from tests.fuzz.mutators import headers, nullable
from tests.fuzz.targets.images import crowded, files
from tests.fuzz.targets.messages import messages
from tests.hostile.redis_liar import LIES
from tests.hostile.scene import SIGNATURE, Batch, Scene
from tests.hostile.store_lies import lies
from tests.support.images import avif_of_frames, encoded, jpeg_of_scans, png_bomb, ramp
from tests.support.loopback import loopback
from tests.support.raw_kafka import GZIP, ZSTD, batch, produce, record, varint
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker
from workers.audit.report import AuditReport

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _truth_again(scene: Scene) -> Iterator[None]:
    yield
    scene.store.lies.clear()


def events(scene: Scene, kind: str, keys: list[str]) -> list[Batch]:
    return [Batch(kind, batch([record(scene.site.own(key))])) for key in keys]


def test_a_store_fails_in_every_way_that_stores_do(scene: Scene) -> None:
    """Each failure concerns an object of its own; all of them are in one partition, one behind the other."""
    with loopback(lambda connection, chunk: None) as elsewhere:
        told = lies(lambda: f"http://127.0.0.1:{elsewhere.port}/x")
        scene.store.lies |= {f"{name}.jpg": lie for name, lie in told.items()}
        for name in told:
            scene.site.upload(f"{name}.jpg", files()[0])
        batches = [each for name in told for each in events(scene, name, [f"{name}.jpg"])]
        verdict = scene.attack("store", batches)
        assert sum(verdict.outcomes.values()) == len(told)
        assert elsewhere.accepted == 0, "the worker went where the store sent it"


def test_redis_has_given_every_lie(scene: Scene) -> None:
    """It lies in all tests here; this test continues until each lie was given, which a breaker may delay."""
    batches = events(scene, "an event that asks the cache", ["good-0.jpg"] * 3)
    deadline = time.monotonic() + 100
    while scene.redis.told.keys() < LIES.keys() and time.monotonic() < deadline:
        scene.attack("Redis", batches, during_s=5.0)
    assert scene.redis.told.keys() == LIES.keys()


def mutated_messages(scene: Scene, seed: int, count: int) -> Iterator[Batch]:
    """Real messages of all dialects, about our bucket, damaged; with headers of any bytes."""
    random = Random(seed)
    known = list(messages())
    for number in range(count):
        value, *named = mutators.anything(random, known[number % len(known)]) or (b"",)
        value = value.replace(b'"photos"', json.dumps(scene.site.name).encode())[:700_000]
        pairs = [
            (name[:100_000], nullable(content[:100_000]))
            for name, content in zip(named[::2], named[1::2], strict=False)
        ]
        assert len(headers(tuple(named))) >= 0
        yield Batch("a damaged message", batch([record(nullable(value), headers=pairs[:200])]))


def odd_records(scene: Scene) -> Iterator[Batch]:
    """Records that a client library would not send, and records that are large only when opened."""
    event = scene.site.own("good-0.jpg")
    zstd = zstandard.ZstdCompressor().compress
    url = f"https://h/p?X-Amz-Signature={SIGNATURE}"
    for kind, value in (
        ("a tombstone", None), ("nothing", b""), ("NUL", b"\0" * 1000), ("deep JSON", b"[" * 900_000),
        ("digits", b"9" * 900_000), ("a long schema", b'{"schema":"image-event/%b"}' % (b"a." * 400_000)),
        ("a signed URL", json.dumps({"schema": f"image-event/{url}", "url": url}).encode()),
        ("a key with escapes", scene.site.own("\x1b[2J[/x]\n.jpg")), ("a key with NUL", scene.site.own("a\0b")),
        ("a long key", scene.site.own("k" * 1025)), ("dots", scene.site.own("a/../../b")),
        ("a slash", scene.site.own("/")),
        ("a backslash", scene.site.own("a\\b.jpg")), ("an odd etag", scene.site.own("good-0.jpg", etag="\u00fc\x07")),
        ("an odd version", scene.site.own("good-0.jpg", version_id="\n\u2028")),
        ("null as version", scene.site.own("good-0.jpg", version_id="null")),
        ("a lie about size", scene.site.own("good-0.jpg", size=1)),
        ("no size at all", scene.site.own("good-0.jpg", size=2**62)),
        ("a huge sequencer", scene.site.own("good-0.jpg", sequencer="f" * 128)),
        ("1,000 removals", json.dumps({"Records": [_removal(scene.site.name, n) for n in range(1000)]}).encode()),
        ("another bucket", event.replace(scene.site.name.encode(), b"secrets")),
    ):  # fmt: skip
        yield Batch(kind, batch([record(value)]))
    yield Batch("a huge key", batch([record(event, key=b"k" * 900_000)]))
    yield Batch("no key", batch([record(event, key=None)]))
    for name in (
        b"\xff\xfe",
        b"",
        b"traceparent",
        b"tagstream-only",
        b"tagstream-schema",
        b"content-type",
        b"ce_specversion",
    ):
        many = [(name, content) for content in (b"\xff", None, b"", b"x" * 10_000, b"0,1,2")]
        yield Batch("odd headers", batch([record(event, headers=many)]))
    yield Batch("a time before 1970", batch([record(event, timestamp=-9)], timestamp=-1))
    yield Batch("a time in the year 292278994", batch([record(event)], timestamp=2**63 - 1))
    raw = varint(5_000_000) + bytes(10_000_000)
    yield Batch("millions of headers", batch([record(event, raw_headers=raw)], attributes=ZSTD, compress=zstd))
    yield Batch("400 MB as 13 kB", batch([record(bytes(400 * MIB))], attributes=ZSTD, compress=zstd))
    swarm = [record(None, key=None, delta=number) for number in range(150_000)]
    yield Batch("a swarm", batch(swarm, attributes=GZIP, compress=gzip.compress), records=len(swarm))


def _removal(bucket: str, number: int) -> dict[str, object]:
    return {
        "eventName": "s3:ObjectRemoved:Delete",
        "s3": {"bucket": {"name": bucket}, "object": {"key": f"{number}", "sequencer": "0A"}},
    }


def test_producers_write_whatever_a_broker_takes(scene: Scene) -> None:
    verdict = scene.attack("producers", [*odd_records(scene), *mutated_messages(scene, seed=1, count=60)])
    assert verdict.goods > 0


def hostile_images(scene: Scene, seed: int, count: int) -> list[Batch]:
    """Files of all formats with damaged pieces, and files with too many pieces or sizes larger than they look."""
    random = Random(seed)
    bodies = [damaged(random, (files()[number % len(files())],))[0] for number in range(count)]
    bodies += [*crowded(), png_bomb(20_000, 20_000), png_bomb(7_000, 7_000)]
    batches = []
    for number, body in enumerate(bodies):
        key = f"image-{seed}-{number}"
        scene.site.upload(key, body[: 2 * MIB] or b"x")
        batches += events(scene, "an image", [key])
    return batches


def test_images_are_damaged_and_crowded(scene: Scene) -> None:
    assert scene.attack("images", hostile_images(scene, seed=1, count=60)).goods > 0


def long_images(scene: Scene, count: int) -> list[Batch]:
    """Nine of ten have very many frames before the shown one, the tenth has a hundred scans."""
    batches = []
    for number in range(count):
        key = f"long-{number}"
        if number % 10:
            body = avif_of_frames(512, 20_000) + struct.pack(">L4sL", 12, b"free", number)
        else:
            body = jpeg_of_scans(5_000, 100) + bytes([number])
        scene.site.upload(key, body)
        batches += events(scene, "an image of many frames or scans", [key])
    return batches


def test_images_that_take_a_decoder_long_hold_no_other_partition(scene: Scene) -> None:
    """Guards: turns by partition at the decoders; a limit on the frames before the shown one."""
    verdict = scene.attack("decoders", long_images(scene, 40))
    assert verdict.outcomes == {"too-complex": 36, "enriched": 4}


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(2, 6))
def test_more_damaged_messages_and_images(scene: Scene, seed: int) -> None:
    """The two interleaved, so that every kind of work is in flight at once."""
    pairs = zip(mutated_messages(scene, seed, 250), hostile_images(scene, seed, 250), strict=False)
    verdict = scene.attack(f"messages and images, seed {seed}", [each for pair in pairs for each in pair])
    assert verdict.goods > 0


@pytest.mark.chaos
@pytest.mark.parametrize("objects", [8, 20])
def test_objects_without_an_end_leave_others_the_threads_that_fetch(stack: Stack, tmp_path: Path, objects: int) -> None:
    """Guard: `fetches` is the number of threads. With the time limits that a worker has by itself; the partition of
    the objects itself takes as long as they take its threads, twice."""
    limits = {"TAGSTREAM_GET_TIMEOUT_S": "", "unreadable_s": "", "retry_s": ""}
    with Scene.started(stack, tmp_path, **limits) as scene:
        keys = [f"slow-{number}.jpg" for number in range(objects)]
        for key in keys:
            scene.site.upload(key, files()[0])
            scene.store.lies[key] = lies(str)["byte-a-second"]
        batches = events(scene, "an object without an end", keys)
        verdict = scene.attack("objects without an end", batches, same_within_s=75.0 * (1 + objects // 10))
        assert sum(verdict.outcomes.values()) == objects


def test_cache_entries_of_a_hijacked_decoder_become_misses_once_it_dies(stack: Stack, tmp_path: Path) -> None:
    """Guard: the cache's entries of its last minute become misses; else each copy of an image gets its false tags."""
    site = Site(stack, f"hostile-{uuid.uuid4().hex[:8]}")
    (tmp_path / "profiles.json").write_text('{"default": {"all": 0.02}}')  # so that any image has tags
    settings = {
        "PYTHONPATH": str(FOLDER),
        "TAGSTREAM_DECODE_THREADS": "1",
        "TAGSTREAM_PROFILES": str(tmp_path / "profiles.json"),
    }
    victim = encoded(ramp(90, 70), "png")
    with worker(site, "w", tmp_path, **settings) as process:

        def outcome_of(key: str, body: bytes) -> EnrichedImage:
            site.upload(key, body)
            site.send([(site.own(key), ())])
            found: list[EnrichedImage] = []

            def came() -> bool:
                outputs = [each for each in site.outputs() if isinstance(each, EnrichedImage)]
                found[:] = [each for each in outputs if each.source.key == key]
                return bool(found)

            eventually(came, 60, process.said)
            return found[0]

        eventually(lambda: len(process.decoders()) == 1, 60, process.said)
        (before,) = process.decoders()
        outcome_of("takes-over.png", png_that("blackens"))
        lied, again = outcome_of("victim.png", victim), outcome_of("copy.png", victim)
        assert (lied.cache.tags, again.cache.tags) == ("miss", "hit")
        assert process.decoders() == [before]
        outcome_of("dies.png", png_that("dies", "once"))
        assert process.decoders() != [before]
        true = outcome_of("another-copy.png", victim)
        assert true.cache.tags == "miss", "the lie was kept"
        assert true.tags != lied.tags, "the decoder was not taken over"


def forge(site: Site, partition: int, offset: int) -> None:
    """Publish a real outcome once more, as if it were of this record."""
    real = site.read(site.enriched)[0]
    document = json.loads(real.value)
    document["event"] |= {"partition": partition, "offset": offset}
    headers = [(name.encode(), value) for name, value in real.headers]
    forged = batch([record(json.dumps(document).encode(), key=real.key, headers=headers)])
    assert produce(site.stack.kafka.servers, site.enriched, 0, forged)[0] == 0


def test_audit_finds_each_forged_outcome(
    stack: Stack, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an offset, and of a partition, that the input never had, and of a record that is not committed."""
    monkeypatch.setattr("workers.assembly.auditing.SETTLED_S", 1.0)
    site = Site(stack, unique("forged"), partitions=1)
    for number in range(4):
        site.upload(f"{number}.jpg", photo(number))
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(3)])
    with worker(site, "w", tmp_path) as process:
        eventually(lambda: len(site.outcomes()) == 3, 90, process.said)
        assert process.terminate() == 0
    site.send([(site.own("3.jpg"), ())])
    assert site.audit().proved
    for partition, offset in ((0, 99_999), (0, 3), (7, 0)):
        forge(site, partition, offset)
    report = site.audit()
    assert not report.proved
    assert named(report) == {
        "without-record": [f"{site.images}:0:99999", f"{site.images}:7:0"],
        "uncommitted": [f"{site.images}:0:3"],
    }


def named(report: AuditReport) -> dict[str, list[str]]:
    return {fault: [one.record for one in found] for fault, found in report.findings.items() if found}
