"""What parties share: sequencers and etags, which may be forged, and a store that refuses a thousand objects of one."""

import json
import time
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from schemas.enriched_image import EnrichedImage, Retraction
from schemas.version import microseconds
from tests.fixtures import Stack, Unique
from tests.hostile.scene import Batch, Scene
from tests.support.lying_store import Answer, Lie, LyingStore, errs
from tests.support.raw_kafka import batch, record
from tests.support.readers import readme_reader
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

FORGED = "F" * 128
PUT, REMOVED = "s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete"


def notification(site: Site, name: str, key: str, **facts: Any) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"bucket": {"name": site.name}, "object": {"key": quote_plus(key), **facts}}
    return json.dumps({"Records": [{"eventName": name, "eventTime": now, "s3": body}]}).encode()


def forgeries(site: Site) -> list[bytes]:
    """Two events with the largest sequencer: of a.jpg as it is, and a false removal of b.jpg."""
    etag = {key: site.upload(key, photo(1)) for key in ("a.jpg", "b.jpg")}["a.jpg"]
    return [
        notification(site, PUT, "a.jpg", eTag=etag, sequencer=FORGED),
        notification(site, REMOVED, "b.jpg", sequencer=FORGED),
    ]


def overwritten(site: Site) -> list[bytes]:
    etag = {key: site.upload(key, photo(2)) for key in ("a.jpg", "b.jpg")}["a.jpg"]
    return [
        notification(site, PUT, key, eTag=etag, sequencer=f"18EB1FF02124DB{number:02X}")
        for number, key in enumerate(("a.jpg", "b.jpg"))
    ]


def removed(site: Site) -> bytes:
    site.store.remove(site.name, "a.jpg")
    return notification(site, REMOVED, "a.jpg", sequencer="18EB1FF02124DBFF")


def etags_shown(site: Site) -> dict[str, str | None]:
    """A reader's final view of both by schemas/README.md; None: nothing."""
    reader = readme_reader()
    held: dict[bytes, EnrichedImage | Retraction] = {}
    for seen in sorted(site.read(site.enriched), key=lambda seen: (seen.offset, seen.partition)):
        reader["index"](seen.value, held)
        number = dict(seen.headers)["tagstream-version"]
        assert number is not None
        assert json.loads(seen.value)["version"] == int(number)
    shown = {key: reader["shown"](f"{site.name}/{key}", held) for key in ("a.jpg", "b.jpg")}
    return {key: None if image is None else image.source.etag for key, image in shown.items()}


def answered(site: Site, process: WorkerProcess, values: list[bytes]) -> None:
    site.send([(value, ()) for value in values])
    eventually(lambda: site.behind() == 0, 60, process.said)


def test_a_forged_sequencer_decides_nothing(stack: Stack, unique: Unique, tmp_path: Path) -> None:
    """Guard: a reader by schemas/README.md kept an image that was gone, and missed one that was there, for ever."""
    site = Site(stack, unique("order"))
    forged = forgeries(site)
    with worker(site, "w", tmp_path) as process:
        answered(site, process, forged)
        honest = overwritten(site)
        answered(site, process, honest)
        answered(site, process, [removed(site)])
        answered(site, process, [forged[0], honest[0]])  # and all of it late once more
    gone = [output.source.key for output in site.outputs() if isinstance(output, Retraction)]
    assert gone == ["a.jpg"], "what is there is not retracted"
    assert etags_shown(site) == {"a.jpg": None, "b.jpg": md5(photo(2), usedforsecurity=False).hexdigest()}


def serves(body: bytes, etag: str) -> Lie:
    def lie(answer: Answer) -> None:
        answer.status, answer.body = 200, body
        answer.headers = {"ETag": f'"{etag}"', "Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}
        answer.tell()

    return lie


def test_two_contents_under_one_etag_are_distinguished(stack: Stack, unique: Unique, tmp_path: Path) -> None:
    """Guard: the second had the hash and the tags of the first."""
    site = Site(stack, unique("etag"))
    etag = "0" * 32
    port = int(stack.s3.endpoint_url.rpartition(":")[2])
    with LyingStore(lambda: port) as store, worker(site, "w", tmp_path, TAGSTREAM_S3_ENDPOINT=store.url) as process:
        for number in (1, 2):
            store.lies["a.jpg"] = serves(photo(number), etag)
            event = notification(site, PUT, "a.jpg", eTag=etag, sequencer=f"18EB1FF02124DB{number:02X}")
            answered(site, process, [event])
            answered(site, process, [site.own(f"other-{number}.jpg")])  # the cache has its entry by now
    images = [output for output in site.outputs() if isinstance(output, EnrichedImage)]
    assert len({image.source.sha256 for image in images}) == len(images) == 2


def denies(answer: Answer) -> None:
    """As S3 refuses by a policy: an answer to HEAD has no body, so that only a GET tells the code."""
    if answer.handler.command == "HEAD":
        answer.status, answer.headers, answer.body = 403, {}, b""
        answer.tell()
    else:
        errs(403, "AccessDenied")(answer)


def test_where_a_worker_may_not_look_a_removal_is_of_its_events_time(
    stack: Stack, unique: Unique, tmp_path: Path
) -> None:
    """A hundred such objects cost one request each and no dead letter, and the worker stays ready."""
    site = Site(stack, unique("denied"))
    port = int(stack.s3.endpoint_url.rpartition(":")[2])
    keys = [f"{number}.jpg" for number in range(100)]
    with LyingStore(lambda: port) as store, worker(site, "w", tmp_path, TAGSTREAM_S3_ENDPOINT=store.url) as process:
        store.lies |= dict.fromkeys(keys, denies)
        events = [notification(site, REMOVED, key) for key in keys]
        answered(site, process, events)
        assert process.get("/readyz")[0] == 200
        assert set(store.told.values()) == {2}, "a HEAD and a GET each"
    said = {key: json.loads(event)["Records"][0]["eventTime"] for key, event in zip(keys, events, strict=True)}
    gone = {output.source.key: output.version for output in site.outputs() if isinstance(output, Retraction)}
    assert gone == {key: microseconds(time) for key, time in said.items()}
    assert not site.letters()


OBJECTS = 1_000
OTHERS_WITHIN_S = 10.0
REFUSALS: tuple[tuple[Lie, str], ...] = (
    (errs(403, "AccessDenied"), "forbidden"),
    (errs(400, "InvalidRequest", "The object was stored using a form of Server Side Encryption"), "unreadable"),
)


def created(bucket: str, keys: list[str]) -> Batch:
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
        batches = [refused(scene, scene.site.name)]
        verdict = scene.attack("refused objects", batches, 10.0, others_within_s=OTHERS_WITHIN_S, others_first=False)
        assert verdict.outcomes == {reason: OBJECTS / 2 for _, reason in REFUSALS}
        assert scene.worker.get("/readyz")[0] == 200


def test_refused_objects_of_a_bucket_that_was_never_read_silence_no_other_bucket(
    stack: Stack, tmp_path: Path, unique: Unique
) -> None:
    fresh = unique("fresh")
    with Scene.started(stack, tmp_path, also=fresh) as scene:
        scene.attack("none", [], 3.0)
        scene.site.store.make_bucket(fresh)
        scene.bucket_of[3] = fresh
        batches, name = [refused(scene, fresh)], "refused objects of a fresh bucket"
        verdict = scene.attack(name, batches, 10.0, others_within_s=OTHERS_WITHIN_S, others_first=False)
        assert verdict.outcomes == {reason: OBJECTS / 2 for _, reason in REFUSALS}
        assert scene.worker.get("/readyz")[0] == 200


def test_absent_objects_of_three_messages_hold_up_neither_their_partition_nor_others(
    stack: Stack, tmp_path: Path
) -> None:
    """Guard: they are requested again without a thread, and once if the message is older than seconds."""
    with Scene.started(stack, tmp_path) as scene:
        batches = [created(scene.site.name, [f"absent-{n}-{m}.jpg" for m in range(OBJECTS)]) for n in range(3)]
        verdict = scene.attack("absent objects", batches, others_within_s=OTHERS_WITHIN_S)
        assert verdict.outcomes == {"skip": 3 * OBJECTS}
