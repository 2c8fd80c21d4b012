"""Worker processes on real servers: each record one outcome set, in order; and a worker's endpoints and logs."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from schemas.correction import correction
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from schemas.stored_scores import SCORES_HEADER, StoredScores
from schemas.version import told_version
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Stack, Unique
from tests.support.broker import publish
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.backends.kafka import ensure_topics
from workers.types import Headers, Message

pytestmark = pytest.mark.timeout(240)


def notification(bucket: str, *keys: str, name: str = "s3:ObjectCreated:Put") -> bytes:
    records = [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": name,
            "eventTime": "2026-01-02T03:04:05.000Z",
            "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
        }
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


def test_events_of_all_three_dialects_come_out_once_each_and_in_order(site: Site, tmp_path: Path) -> None:
    for number in range(12):
        site.upload(f"images/a b+{number}.jpg", photo(number))
    site.store.remove(site.name, "images/a b+7.jpg")
    ce: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"c-1"),
        ("ce_source", b"/uploads"),
        ("ce_type", b"image.uploaded"),
        ("content-type", b"application/json"),
    )
    structured = {
        "specversion": "1.0",
        "id": "c-2",
        "source": "/uploads",
        "type": "image.uploaded",
        "datacontenttype": "application/json",
        "data": json.loads(site.own("images/a b+9.jpg")),
    }
    site.send(
        [(site.own(f"images/a b+{n}.jpg"), ()) for n in range(6)]
        + [(notification(site.name, "images/a+b%2B6.jpg"), ())]
        + [(site.own("images/a b+8.jpg"), ce)]
        + [(json.dumps(structured).encode(), (("content-type", b"application/cloudevents+json"),))]
        + [(notification(site.name, "images/a+b%2B7.jpg", name="ObjectRemoved:Delete"), ())]
        + [(b'{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"x"}', ()), (b"\x00\x01", ())]
    )
    corrections = f"{site.name}.corrections"
    ensure_topics(site.stack.kafka.servers, {corrections: (1, {})})
    said = correction(site.name, "images/a b+3.jpg", added=["Egyptian cat", "Whiskers"])
    publish(site.stack.kafka.servers, [Message(corrections, said.key, said.value, ())])
    with worker(site, "w", tmp_path, TAGSTREAM_CORRECTIONS_TOPIC=corrections) as process:
        process.finish()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()
    report = site.audit()
    assert (report.proved, report.records, report.unverifiable) == (True, len(site.inputs()), {}), report.as_json()
    outputs = site.outputs()
    images = [output for output in outputs if isinstance(output, EnrichedImage)]
    assert {image.event.dialect for image in images} == {"own", "s3", "cloudevents"}
    assert {image.source.key for image in images} == {f"images/a b+{n}.jpg" for n in (0, 1, 2, 3, 4, 5, 6, 8, 9)}
    assert {image.caption.method for image in images if image.caption} == {"template"}
    assert all(bool(image.caption) == bool(image.tags) for image in images), "where there is a tag"
    stored = {seen.key: dict(seen.headers).get(SCORES_HEADER) for seen in site.read(site.enriched)}
    for image in images:
        scores = {label: round(score, 6) for label, score in StoredScores.decode(stored[image.message_key]).scores}
        assert {tag.label_id: tag.score for tag in image.tags if tag.source is None}.items() <= scores.items()
    persons = {image.source.key: image.tags[0].name for image in images if image.tags and image.tags[0].source}
    assert persons == {"images/a b+3.jpg": "Egyptian cat"}
    assert {image.source.key for image in images if image.corrections} == set(persons)
    assert [r.source.key for r in outputs if isinstance(r, Retraction)] == ["images/a b+7.jpg"]
    assert [skip.reason for skip in outputs if isinstance(skip, Skip)] == ["test-event"]
    assert [dead_letter.failures[0].reason for dead_letter in site.letters()] == ["undecodable"]


def test_two_workers_share_the_partitions_and_repeat_nothing(site: Site, tmp_path: Path) -> None:
    with worker(site, "w1", tmp_path) as first:
        site.send_photos(range(30))
        with worker(site, "w2", tmp_path) as second:
            site.send_photos(range(30, 60))
            eventually(lambda: second.metric("messaging_client_consumed_messages_total") > 0, 60, second.said)
            second.finish()
        assert first.terminate() == 0, first.said()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()


def test_the_other_delivery_does_the_same_work(site: Site, tmp_path: Path) -> None:
    site.send_photos(range(20))
    site.upload("broken.jpg", photo(0)[:300])
    site.send([(site.own("broken.jpg"), ())])
    with worker(site, "w", tmp_path, TAGSTREAM_DELIVERY="at_least_once") as process:
        process.finish()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()
    assert [dead_letter.failures[0].reason for dead_letter in site.letters()] == ["broken-image"]


def in_flight(process: WorkerProcess) -> float:
    return process.metric("tagstream_images_in_flight")


@pytest.mark.chaos
def test_a_worker_killed_in_mid_batch_loses_nothing_and_nothing_comes_twice(site: Site, tmp_path: Path) -> None:
    for number in range(150):
        site.upload(f"{number}.jpg", photo(number, 256))
    with worker(site, "w", tmp_path, TAGSTREAM_MAX_BATCH="1") as victim:
        site.send([(site.own(f"{number}.jpg"), ()) for number in range(150)])
        eventually(lambda: victim.metric("tagstream_outcomes_total") > 0, 60, victim.said)
        assert in_flight(victim) > 0, "nothing was in hand any more"
        victim.kill()
    done = len(site.read(site.enriched))
    assert 0 < done < 150, "the kill came too early or too late to prove anything"
    with worker(site, "w", tmp_path) as heir:
        heir.finish(120)
    assert site.outcomes() == site.inputs()
    site.assert_in_order()
    assert site.letters() == []


@pytest.mark.chaos
def test_each_removal_leaves_a_retraction_and_its_tombstone_in_one_transaction_however_often_workers_die(
    site: Site, tmp_path: Path
) -> None:
    kept, gone = [f"kept {number}.jpg" for number in range(10)], [f"gone {number}.jpg" for number in range(90)]
    for number, key in enumerate((*kept, *gone)):
        site.upload(key, photo(number))
        if key in gone:
            site.store.remove(site.name, key)
    site.send([(site.own(key), ()) for key in kept])
    for part in (gone[:45], gone[45:]):  # sent by halves, so that the second worker too has something to do
        site.send([(notification(site.name, quote(key), name="ObjectRemoved:Delete"), ()) for key in part])
        with worker(site, "w", tmp_path, TAGSTREAM_TOMBSTONES="on", TAGSTREAM_FETCH_THREADS="1") as victim:
            eventually(lambda: victim.metric("tagstream_outcomes_total") > 0, 60, victim.said)
            victim.kill()
    with worker(site, "w", tmp_path, TAGSTREAM_TOMBSTONES="on") as process:
        process.finish()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()
    found = {(seen.partition, seen.offset): seen for seen in site.read(site.enriched)}
    tombstones = {place: seen for place, seen in found.items() if not seen.value}
    assert {seen.key for seen in tombstones.values()} == {f"{site.name}/{key}".encode() for key in gone}
    assert len(tombstones) == len(gone)
    for (partition, offset), tombstone in tombstones.items():
        before = found[partition, offset - 1]  # no marker of a transaction between them
        retraction = read_output(before.value)
        assert isinstance(retraction, Retraction)
        assert (before.key, retraction.version) == (tombstone.key, told_version(before.headers))
        assert told_version(tombstone.headers) == (retraction.version or 0) + 1
    report = site.audit(TAGSTREAM_TOMBSTONES="on")
    assert (report.proved, report.tombstones, report.strange) == (True, len(gone), 0), report.as_json()


@pytest.mark.chaos
def test_the_cache_may_die_and_come_back_meanwhile(
    kafka: ApacheKafka, s3: SeaweedFS, own_valkey: Valkey, unique: Unique, tmp_path: Path
) -> None:
    site = Site(Stack(kafka, s3, own_valkey), unique("line"))
    with worker(site, "w", tmp_path) as process:
        site.send_photos(range(20))
        eventually(lambda: site.behind() == 0, 60, process.said)
        own_valkey.stop()
        try:
            site.send_photos(range(20, 40))
            eventually(lambda: site.behind() == 0, 60, process.said)
            assert process.metric("tagstream_cache_errors_total") > 0
        finally:
            own_valkey.restart()
        # The breaker probes again after a moment; then copies of known images are hits.
        eventually(lambda: _a_copy_is_remembered(site), 30, process.said)
        assert process.terminate() == 0, process.said()
    assert site.outcomes() == site.inputs()


def _a_copy_is_remembered(site: Site) -> bool:
    site.send([(site.own("39.jpg"), ())])
    eventually(lambda: site.behind() == 0, 30)
    return any(image.cache.tags == "hit" for image in site.enriched_images() if image.source.key == "39.jpg")


def log_of(process: WorkerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.said().splitlines()]


def test_a_worker_with_a_missing_topic_is_never_ready_and_says_so_in_its_last_line(site: Site, tmp_path: Path) -> None:
    process = WorkerProcess(site, "w", tmp_path, TAGSTREAM_INPUT_TOPICS=f"{site.name}.nowhere")
    try:
        assert process.wait_gone(120) == 2
    finally:
        process.kill()
    lines = log_of(process)
    assert not [line for line in lines if line["message"].startswith("ready")]
    assert lines[-1]["level"] == "error"
    assert lines[-1]["message"].startswith(f"the topic '{site.name}.nowhere' does not exist; create it first")


def test_no_answer_of_the_port_tells_a_key_a_caption_or_a_secret(site: Site, tmp_path: Path) -> None:
    keys = [f"unmistakable-{number}.jpg" for number in range(4)]
    for number, key in enumerate(keys):
        site.upload(key, photo(number) if number else b"no image at all")
    with worker(site, "a", tmp_path) as process:
        site.send([(site.own(key), ()) for key in keys])
        eventually(lambda: len(site.outcomes()) == 4, 60, process.said)
        told = "".join(process.get(path)[1] for path in ("/livez", "/startupz", "/readyz", "/metrics"))
    captions = [image.caption.text for image in site.enriched_images() if image.caption]
    assert site.images in told, "it is the worker's page"
    for private in ("unmistakable", site.stack.s3.secret_key, *captions):
        assert private not in told
