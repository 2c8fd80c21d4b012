"""Corrections show at once, and forgotten images go, on real servers with a real worker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from kafka.admin import ConfigResource, KafkaAdminClient

from schemas.correction import correction
from schemas.enriched_image import EnrichedImage, EventRef, Retraction, Skip
from tagstream_testing.local import tuned
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Stack, Unique, up_or_skip
from tests.support.broker import publish
from tests.support.forked import run_command
from tests.support.ran import Ran
from tests.support.slowed import slowed
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from tests.unit.retag.stored import outcome, today
from workers.assembly.corrections import Applier, Applying
from workers.backends.kafka import ensure_topics
from workers.environment import read
from workers.types import Message

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


class Place:
    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.said = f"{site.name}.corrections"
        ensure_topics(site.stack.kafka.servers, {self.said: (1, {})})
        self.more = {"TAGSTREAM_CORRECTIONS_TOPIC": self.said}

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
        own = {"TAGSTREAM_STATE_DIR": str(self.folder)}
        return {**inherited, **own, **self.site.settings("command"), **self.more}

    def tagstream(self, *arguments: object) -> Ran:
        return run_command(*arguments, **self.environment())

    def forget(self, *arguments: object) -> Any:
        return self.tagstream("forget", *arguments, "--json").json

    def tag(self, folder: Path, **images: int) -> None:
        for key, seed in images.items():
            self.site.upload(key, photo(seed))
        with worker(self.site, "tags", folder, **self.more) as process:
            self.site.send(
                [(self.site.own(key, etag=self.site.upload(key, photo(seed))), ()) for key, seed in images.items()]
            )
            process.finish()

    def names(self, *parts: str) -> list[str]:
        with redis.Redis.from_url(self.site.stack.valkey.url) as client:
            names = [name.decode() for name in client.scan_iter(count=1000)]
        return [name for name in names if any(part in name for part in parts)]

    def records(self) -> list[tuple[int, bytes | None, bytes]]:
        return [(each.partition, each.key, each.value) for each in self.site.read(self.site.enriched)]

    def images(self, key: str) -> list[EnrichedImage]:
        return [each for each in self.site.enriched_images() if each.source.key == key]


@pytest.fixture
def place(kafka: ApacheKafka, s3: SeaweedFS, own_valkey: Valkey, unique: Unique, tmp_path: Path) -> Place:
    """With a Redis of its own: others keep results of the same bytes."""
    return Place(Site(Stack(kafka, s3, own_valkey), unique("line")), tmp_path / "state")


@pytest.fixture
def live(place: Place, tmp_path: Path) -> Iterator[WorkerProcess]:
    with worker(place.site, "w", tmp_path, **place.more, TAGSTREAM_CORRECTIONS_BY="on") as process:
        yield process


def test_a_correction_that_is_applied_is_shown_without_a_run_of_the_model(place: Place, live: WorkerProcess) -> None:
    place.site.upload("a.jpg", photo(81))
    place.site.send([(place.site.own("a.jpg"), ())])
    eventually(lambda: len(place.images("a.jpg")) == 1, 90, live.said)
    told = place.tagstream("correct", f"{place.site.name}/a.jpg", "--add", "a kite", "--by", "ann", "--apply").done
    before, *_, shown = sorted(place.images("a.jpg"), key=lambda each: each.version or 0)
    assert shown.corrections is not None
    assert (shown.corrections.added, shown.corrections.by) == (("a kite",), ("ann",))
    assert shown.cache.tags == "hit"
    assert f"version {shown.version} shows it" in told
    assert (before.version or 0) < (shown.version or 0)


def test_a_hundred_corrections_are_shown_in_seconds_and_hold_no_other(place: Place, live: WorkerProcess) -> None:
    keys = [f"{number}.jpg" for number in range(101)]
    for key in keys:
        place.site.upload(key, photo(1_000 + int(key[:-4])))
    place.site.send([(place.site.own(key), ()) for key in keys])
    eventually(lambda: place.site.outputs() and not place.site.behind(), 90, live.said)
    *many, other = [Applying(correction(place.site.name, key, added=["a kite"])) for key in keys]
    with Applier(read(place.environment())) as applier:
        began = time.monotonic()
        applier.add(many)
        while time.monotonic() < began + 1.2:
            applier.turn()
        applier.add([other])
        joined = time.monotonic()
        while not other.ended:
            applier.turn()
        held_s = time.monotonic() - joined
        while applier.turn():
            pass
        took_s = time.monotonic() - began
    assert sum(each.events for each in many) < 200, "an event a picture, but for those that come before the correction"
    assert all(each.version for each in (*many, other)), {each.failure for each in many}
    assert took_s < 30
    assert held_s < 15


def test_a_dry_run_changes_nothing_and_an_object_that_is_there_is_refused(place: Place, tmp_path: Path) -> None:
    place.tag(tmp_path, a=82)
    before, names = place.records(), place.names(f"{place.site.name}/a")
    report = place.forget(f"{place.site.name}/a")
    assert (report["retractions"], report["tombstones"], report["present"]) == (1, 1, 1)
    assert report["entries"] > len(names) > 0
    assert "--keep-object" in place.tagstream("forget", f"{place.site.name}/a", "--go").fails()
    assert place.records() == before
    assert place.names(f"{place.site.name}/a") == names
    assert place.forget(f"{place.site.name}/a", "--keep-object", "--go")["finished"]
    assert place.names(f"{place.site.name}/a") == []


def test_an_image_is_forgotten_in_topic_cache_and_corrections_and_its_copy_stays(place: Place, tmp_path: Path) -> None:
    place.tag(tmp_path, a=83, copy=83, b=84)
    (gone,), (copy,) = place.images("a"), place.images("copy")
    assert gone.source.sha256 == copy.source.sha256
    assert place.names(f":facts:{gone.source.sha256}:")
    name = place.site.name
    for key in ("a", "b"):
        assert place.tagstream("correct", f"{name}/{key}", "--add", "a kite").code == 0
    place.site.store.remove(name, "a")
    report = place.forget(f"{name}/a", "--go")
    assert (report["retractions"], report["withdrawals"], report["finished"]) == (1, 1, True)
    assert place.names(f"{name}/a", gone.source.sha256) == []
    assert place.names(f"{name}/copy")
    assert place.images("copy") == [copy]
    again = place.forget(f"{name}/a", "--go")
    assert (again["due"], again["entries"], again["finished"]) == (0, 0, True)
    audit = place.site.audit()
    assert audit.proved, audit.as_json()
    assert (audit.remade, audit.tombstones, audit.other) == (1, 1, 0)


@pytest.mark.parametrize("by", [["{}/a"], ["--prefix", "{}/a"]])
def test_a_rendition_that_was_an_image_of_its_own_is_forgotten_with_its_original(
    place: Place, tmp_path: Path, by: list[str]
) -> None:
    place.tag(tmp_path, **{"a": 85, "web/a": 86, "web/b": 87})
    name, (copy,) = place.site.name, place.images("web/a")
    chosen = [each.format(name) for each in by]
    place.more["TAGSTREAM_RENDITION"] = "{bucket}/web/{key}"
    report = place.forget(*chosen)
    assert (report["retractions"], report["present"]) == (2, 2)
    assert {*report["first_present"]} == {f"{name}/a", f"{name}/web/a"}
    place.site.store.remove(name, "a")
    assert place.tagstream("forget", *chosen, "--go").code == 2, "the rendition is there"
    place.site.store.remove(name, "web/a")
    assert place.forget(*chosen, "--go")["finished"]
    assert place.names(f"{name}/a", f"{name}/web/a", copy.source.sha256) == []
    assert place.names(f"{name}/web/b")


def test_records_in_partitions_of_before_are_forgotten_where_they_stand(place: Place, tmp_path: Path) -> None:
    place.tag(tmp_path, **{f"k{number}": 85 for number in range(8)})
    before = {key: partition for partition, key, _ in place.records()}
    with closing(KafkaAdminClient(bootstrap_servers=place.site.stack.kafka.servers)) as admin:
        admin.create_partitions({place.site.enriched: 7})
    report = place.forget("--prefix", f"{place.site.name}/k", "--keep-object", "--go")
    assert report["retractions"] == 8
    ended = {(key, partition) for partition, key, value in place.records() if not value}
    assert ended == set(before.items())
    assert place.site.audit().proved


@pytest.fixture
def compacting(scratch: Scratch, s3: SeaweedFS, own_valkey: Valkey, unique: Unique, tmp_path: Path) -> Iterator[Place]:
    """On a broker of its own, with a cleaner that never pauses: by default it rests for 15 s after each."""
    cleaner = {"log.cleaner.backoff.ms": "200", "log.cleaner.dedupe.buffer.size": "4194304"}
    for broker in up_or_skip(ApacheKafka(scratch.path / "compacting", cleaner)):
        yield Place(Site(Stack(broker, s3, own_valkey), unique("line")), tmp_path / "state")


def compact(place: Place, key: bytes) -> None:
    site = place.site
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0",
        "segment.ms": "100",
        "delete.retention.ms": "0",
        "min.compaction.lag.ms": "0",
    }
    with closing(KafkaAdminClient(bootstrap_servers=site.stack.kafka.servers)) as admin:
        admin.alter_configs([ConfigResource("TOPIC", site.enriched, settings)])

    where = EventRef(id="other", topic=site.images, partition=0, offset=0, index=0)
    other = Skip(event=where, reason="test-event").to_bytes()

    def is_gone() -> bool:
        messages = [Message(site.enriched, b"other", other, (), partition) for partition in range(3)]
        publish(site.stack.kafka.servers, messages)  # a segment is compacted once another follows
        return all(each.key != key for each in site.read(site.enriched))

    eventually(is_gone, 60)


@pytest.mark.chaos
def test_after_compaction_nothing_is_found_but_beyond_reach(compacting: Place, tmp_path: Path) -> None:
    place, name = compacting, compacting.site.name
    place.tag(tmp_path, a=86, ab=87)
    place.site.store.remove(name, "a")
    noted = tmp_path / "state" / "emit" / "command.json"
    noted.parent.mkdir(parents=True)
    noted.write_text(json.dumps({"last": "a"}))
    before = place.tagstream("forget", f"{name}/a", "--verify", "--json")
    assert before.code == 1, before.err
    found = json.loads(before.out)["found"]
    assert set(found) == {place.site.enriched, "Redis", "TAGSTREAM_STATE_DIR"}
    report = place.forget(f"{name}/a", "--go")
    ends = {each["place"]: each["until"] for each in report["beyond"]}
    assert ends[place.site.images] is not None
    assert None in ends.values()
    still = json.loads(place.tagstream("forget", f"{name}/a", "--verify", "--json").out)
    assert set(still["found"]) == {place.site.enriched, "TAGSTREAM_STATE_DIR"}
    noted.unlink()
    compact(place, f"{name}/a".encode())
    after = place.forget(f"{name}/a", "--verify")
    assert after["found"] == {}
    assert after["elsewhere"][place.site.images]["count"] == 1
    assert place.images("ab"), "another image, whose name begins the same way, stays"


def test_a_killed_run_continues_and_publishes_nothing_twice(place: Place, tmp_path: Path) -> None:
    name, keys = place.site.name, [f"k{number}" for number in range(60)]
    then = today(tmp_path, thresholds=0.5)
    messages = []
    for key in keys:
        document, headers = outcome(then, {"red": 0.9}, key=key)
        value = orjson.dumps(document).replace(b"photos", name.encode())
        messages.append(Message(place.site.enriched, f"{name}/{key}".encode(), value, headers))
    publish(place.site.stack.kafka.servers, messages)

    def retracted() -> list[str]:
        found = [each for each in place.site.outputs() if isinstance(each, Retraction)]
        return [each.subject for each in found]

    command = ["forget", "--prefix", f"{name}/k", "--go", "--json"]
    environment = {**place.environment(), tuned.VARIABLE: json.dumps({"transaction_outcomes": "2"})}
    slow = [sys.executable, *slowed(0.3), *command]
    for stop in (signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        wanted = len(retracted()) + 1
        process = subprocess.Popen(slow, env=environment)
        while len(retracted()) < wanted and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(stop)
        process.wait(60)
    assert wanted < len(keys)
    place.forget(*command[1:-1])
    assert sorted(retracted()) == sorted(f"{name}/{key}" for key in keys)
    assert place.forget(*command[1:-1])["due"] == 0


def test_a_removal_event_purges_the_cache_where_it_is_set(place: Place, tmp_path: Path) -> None:
    site = place.site
    etag = site.upload("a", photo(88))
    removal = {"eventName": "s3:ObjectRemoved:Delete", "s3": {"bucket": {"name": site.name}, "object": {"key": "a"}}}
    with worker(site, "w", tmp_path, **place.more, TAGSTREAM_FORGET_ON_REMOVE="on") as process:
        site.send([(site.own("a", etag=etag), ())])
        eventually(lambda: len(place.images("a")) == 1, 90, process.said)
        sha256 = place.images("a")[0].source.sha256
        eventually(lambda: len(place.names(f"{site.name}/a", sha256)) >= 3, 30)
        site.store.remove(site.name, "a")
        site.send([(json.dumps({"Records": [removal]}).encode(), ())])
        eventually(lambda: not place.names(f"{site.name}/a", sha256), 60, process.said)
        assert process.terminate() == 0
