"""The commands against real servers."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from PIL import Image

from schemas.correction import Corrections, Word
from schemas.dead_letter import Failure, dead_letter_headers, only_indexes
from schemas.enriched_image import EnrichedImage, Source, Tag
from tagstream_train.data.samples import DataSet
from tests.fixtures import Stack, Unique
from tests.support.broker import lag, publish
from tests.support.command import Tagstream
from tests.support.raw_kafka import ZSTD, batch, produce, record
from tests.support.waiting import eventually
from tests.support.worker_process import settings_of
from tests.unit.schemas.documents import enriched
from workers.assembly import corrections
from workers.backends.kafka import KafkaEmitter, ensure_topics, group_watch, tail
from workers.backends.s3.store import MinioObjectStore
from workers.errors import Unavailable
from workers.retag.changes import read_changes
from workers.types import Headers, Message, Partition, ReadRecord

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class TopicsAndBucket:
    """Topics and a bucket of one test, and the environment that names them."""

    servers: str
    name: str
    environment: dict[str, str]

    @property
    def images(self) -> str:
        return f"{self.name}.images"

    @property
    def dead(self) -> str:
        return f"{self.name}.dead"

    def send(self, *values: bytes | None, topic: str = "") -> None:
        """To the input, or to another topic."""
        publish(self.servers, (Message(topic or self.images, b"k", value, ()) for value in values))

    def records(self, topic: str) -> list[ReadRecord]:
        with tail(self.servers, [topic], start="beginning", follow=False) as reading:
            return list(reading)


def enriched_photo(key: str, *tags: str) -> EnrichedImage:
    shown = tuple(Tag(name=name, score=0.9, label_id=number) for number, name in enumerate(tags))
    source = Source(bucket="photos", key=key, etag="e", last_modified="2026-01-01T00:00:00Z", sha256="a" * 64)
    return enriched(subject=f"photos/{key}", source=source, tags=shown)


@pytest.fixture
def site(stack: Stack, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> TopicsAndBucket:
    name = unique("cli")
    servers = stack.kafka.servers
    ensure_topics(servers, {f"{name}.{topic}": (1, {}) for topic in ("images", "enriched", "dead", "skipped")})
    environment = settings_of(stack, name) | {"TAGSTREAM_HTTP_PORT": "off", "TAGSTREAM_MAX_BATCH": "1"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return TopicsAndBucket(servers, name, environment)


@pytest.fixture
def store(stack: Stack) -> Iterator[MinioObjectStore]:
    with closing(MinioObjectStore(stack.s3.endpoint_url, stack.s3.access_key, stack.s3.secret_key)) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "deep er").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b+c.png", "deep er/ünï.png")):
        Image.new("RGB", (32, 32), (80 * number, 40, 200)).save(images / name)
    (images / "notes.txt").write_text("no image")
    return images


def events(site: TopicsAndBucket) -> list[str]:
    """The requested keys up to now, each with the time of a store's answer: HTTP has whole seconds."""
    records = site.records(site.images)
    documents = [json.loads(record.value or b"") for record in records]
    assert all(re.fullmatch(r"[0-9T:-]{19}Z", document["event_time"]) for document in documents)
    return [document["key"] for document in documents]


def test_a_folder_goes_in_and_its_outcomes_come_out(site: TopicsAndBucket, folder: Path, tagstream: Tagstream) -> None:
    assert tagstream("emit", folder, "--prefix", "in/").done == f"3 events sent to {site.images}\n"
    site.send(b"no event")
    command = [sys.executable, "-m", "workers", "run", "--until-idle", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert lag(site.servers, site.name, [site.images]) == {Partition(site.images, 0): 0}
    found = [json.loads(line) for line in tagstream("tail", "--json", "--no-follow").out.splitlines()]
    assert [document["subject"] for document in found if document["schema"] == "enriched-image/1"] == [
        f"{site.name}/in/{key}" for key in ("a.png", "b+c.png", "deep er/ünï.png")
    ]
    assert [document["failures"][0]["reason"] for document in found if document["schema"] == "dead-letter/1"] == [
        "undecodable"
    ]
    shown = tagstream("tail", "--no-follow").done
    assert "enriched" in shown
    assert "undecodable" in shown


def test_tail_chooses_outcomes_by_time_by_key_and_by_kind(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    topic = f"{site.name}.enriched"

    def seen(*options: str) -> list[int]:
        lines = tagstream("tail", "--json", "--no-follow", *options).out.splitlines()
        return [json.loads(line)["_record"]["offset"] for line in lines]

    site.send(enriched_photo("cats/1.jpg").to_bytes(), b"foreign", topic=topic)
    (*_, last) = site.records(topic)
    later_ms = last.timestamp_ms + 1
    eventually(lambda: time.time() * 1000 > later_ms)
    site.send(*(enriched_photo(key).to_bytes() for key in ("dogs/1.jpg", "cats/2.jpg")), topic=topic)
    later = datetime.fromtimestamp(later_ms / 1000, UTC).isoformat()
    assert seen() == [0, 1, 2, 3]
    assert seen("--since", later) == [2, 3]
    assert seen("--since", "1h") == [0, 1, 2, 3]
    assert seen("--since", "9999-01-01") == []
    assert seen("--key", "photos/cats/*") == [0, 3]
    assert seen("--kind", "unknown", "--kind", "dead-letter") == [1]
    assert seen("--since", later, "--key", "*/cats/*", "--kind", "enriched", "--limit", "1") == [3]
    assert f"{topic}:0:3" in tagstream("tail", "--no-follow", "--wide").out


def test_existing_outcomes_come_in_order_of_time_from_all_partitions(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    topics = (f"{site.name}.enriched", f"{site.name}.skipped", site.dead) * 2
    for topic in topics:
        site.send(b"{}", topic=topic)
        time.sleep(0.002)  # the next one has a later millisecond
    for options in ((), ("--since", "1h"), ("--limit", "4")):
        lines = tagstream("tail", "--json", "--no-follow", *options).out.splitlines()
        places = [json.loads(line)["_record"] for line in lines]
        assert [each["topic"] for each in places] == list(topics)[: 4 if "--limit" in options else 6]
        assert [each["offset"] for each in places] == [0, 0, 0, 1, 1, 1][: len(places)]


def test_emit_lists_the_images_of_a_prefix(site: TopicsAndBucket, folder: Path, tagstream: Tagstream) -> None:
    assert tagstream("emit", folder).code == 0
    assert tagstream("emit", "--bucket", site.name, "--prefix", "deep").code == 0
    assert events(site) == ["a.png", "b+c.png", "deep er/ünï.png", "deep er/ünï.png"]


def test_emit_sends_to_the_background_topic_if_it_is_told_to(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = tagstream("emit", folder, "--background").fails()
    assert "TOPIC:background in TAGSTREAM_INPUT_TOPICS" in " ".join(refused.split())
    later = f"{site.name}.later"
    ensure_topics(site.servers, {later: (1, {})})
    monkeypatch.setenv("TAGSTREAM_INPUT_TOPICS", f"{later}:background,{site.images}")
    assert tagstream("emit", folder, "--background", "--topic", later).code == 2
    assert not site.records(later)
    assert tagstream("emit", folder, "--background").code == 0
    assert (len(site.records(later)), len(site.records(site.images))) == (3, 0)
    assert tagstream("emit", folder).code == 0
    assert (len(site.records(later)), len(site.records(site.images))) == (3, 3)


def test_every_command_says_at_once_that_its_topic_is_missing(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream
) -> None:
    site.send(b"can be skipped")
    nowhere = f"{site.name}.nowhere"
    commands = (
        ("emit", folder, "--topic", nowhere),
        ("correct", "photos/a.jpg", "--add", "dog", "--topic", nowhere),
        ("tail", "--no-follow"),
        ("dead-letters", "list"),
        ("dead-letters", "skip", f"{site.images}:0:0"),
    )
    create = f"`tagstream topics create`, or kafka-topics.sh --create --topic {nowhere}"
    said = f"the topic '{nowhere}' does not exist; create it first ({create})"
    for command in commands:
        assert said in tagstream(*command, DEAD_LETTER_TOPIC=nowhere).fails(), command


def test_ctrl_c_says_what_is_done_and_how_to_go_on(site: TopicsAndBucket, folder: Path, tagstream: Tagstream) -> None:
    command = [sys.executable, "-m", "workers", "emit", str(folder), "--rate", "0.01"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as slow:
        eventually(lambda: events(site) == ["a.png"], timeout_s=90)
        slow.send_signal(signal.SIGINT)
        _, told = slow.communicate(timeout=100)
    assert slow.returncode == 130, told
    assert f"stopped: 1 event sent to {site.images}. The same command goes on with --after a.png" in told
    assert "Traceback" not in told
    for arguments in ((folder,), ("--bucket", site.name)):
        assert tagstream("emit", *arguments, "--after", "a.png").code == 0
    assert events(site) == ["a.png", "b+c.png", "deep er/ünï.png", "b+c.png", "deep er/ünï.png"]


def test_the_same_content_is_not_uploaded_again_and_other_content_is_refused(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream, store: MinioObjectStore
) -> None:
    parts = bytes(6 << 20)  # more than S3 clients send in one piece: its etag is no MD5
    (folder / "own parts.bmp").write_bytes(parts)
    (folder / "their parts.bmp").write_bytes(parts)
    store.make_bucket(site.name)
    store.put(site.name, "b+c.png", (folder / "b+c.png").read_bytes())
    store.put(site.name, "their parts.bmp", parts)
    said = tagstream("emit", folder).notes
    assert "uploaded: 3 (" in said
    assert "there already: 2 (" in said
    assert "left out 1: not an image by its ending; the first is notes.txt" in said

    again = tagstream("emit", folder)
    assert (again.code, again.out) == (0, f"5 events sent to {site.images}\n")
    assert "there already: 5 (" in again.err
    assert "uploaded" not in again.err

    old = store.find(site.name, "a.png")
    (folder / "a.png").write_bytes((folder / "b+c.png").read_bytes())
    (folder / "their parts.bmp").write_bytes(parts[1:] + b"x")
    refused = tagstream("emit", folder)
    assert (refused.code, refused.out) == (2, f"3 events sent to {site.images}\n")
    assert "left out 2: other content lies under its key (--overwrite replaces it); the first is a.png" in refused.err
    assert store.find(site.name, "a.png") == old
    assert "replaced: 2 (" in tagstream("emit", folder, "--overwrite").notes
    assert store.find(site.name, "a.png") != old


def test_a_dry_run_says_what_would_be_and_does_nothing(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream, store: MinioObjectStore
) -> None:
    nothing_yet = tagstream("emit", folder, "--dry-run")
    assert [line.split("  ")[0] for line in nothing_yet.done.splitlines()] == ["would be uploaded"] * 3
    assert f"3 events would be sent to {site.images}; nothing was done" in nothing_yet.err
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        next(store.list(site.name))
    store.make_bucket(site.name)
    store.put(site.name, "a.png", (folder / "a.png").read_bytes())
    store.put(site.name, "b+c.png", b"other")
    ran = tagstream("emit", folder, "--dry-run", "--overwrite")
    assert [line.partition("  ")[0].strip() for line in ran.out.splitlines()] == [
        "is there already",
        "would replace other content",
        "would be uploaded",
    ]
    assert tagstream("emit", "--dry-run").out.count("is in the bucket") == 2
    told = [json.loads(line) for line in tagstream("emit", "--dry-run", "--json").out.splitlines()]
    assert told[1] == {"bucket": site.name, "key": "b+c.png", "bytes": 5, "outcome": "listed"}
    assert len(told) == 2
    assert [found.key for found in store.list(site.name)] == ["a.png", "b+c.png"]
    assert events(site) == []


def test_forgotten_images_stay_away_by_the_list_that_forget_took(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream, tmp_path: Path
) -> None:
    listed = tmp_path / "forgotten.txt"
    listed.write_text(f"{site.name}/a.png\n\n{site.name}/deep er/ünï.png\nelsewhere/b+c.png\n")
    assert tagstream("forget", "--list", listed).code == 0
    assert tagstream("emit", folder).code == 0
    for sent in (tagstream("emit", folder, "--except", listed), tagstream("emit", "--except", listed, "--json")):
        assert "left out 2: named by --except; the first is a.png" in sent.notes
    assert sent.json == {"topic": site.images, "sent": 1}
    assert events(site)[3:] == ["b+c.png"] * 2
    listed.write_text("a.png\n")
    assert tagstream("emit", "--except", listed).fails() == f"{listed}, line 1: 'a.png' is no BUCKET/KEY\n"


def test_a_prefix_without_objects_is_an_error(
    site: TopicsAndBucket, tagstream: Tagstream, store: MinioObjectStore
) -> None:
    store.make_bucket(site.name)
    store.put(site.name, "a.png", b"x")
    ran = tagstream("emit", "--prefix", "2025/")
    assert (ran.code, ran.out) == (2, "")
    assert f"the bucket {site.name} holds no object with a key that begins with '2025/'" in ran.err
    assert "stopped" not in ran.err, "nothing was begun that could be gone on with"


def letter_of(topic: str, failure: Failure | None = None, **more: Any) -> Headers:
    """The headers of a dead letter of this topic's first record, changed."""
    failure = failure or Failure(index=0, stage="fetch", reason="unreadable", detail="d")
    given = {"partition": 0, "offset": 0, "timestamp_ms": 0, "attempts": 1, "worker": "0", "models": {}, **more}
    return dead_letter_headers(topic=topic, failures=[failure], **given)


def test_dead_letters_are_listed_shown_and_sent_back(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    letters: list[Message] = []
    for offset, (reason, truncated) in enumerate([("unreadable", False), ("schema", False), ("unreadable", True)]):
        failure = Failure(index=2, stage="fetch", reason=reason, detail=f"failure {offset}")  # type: ignore[arg-type]
        headers = (("h", b"x"), *letter_of(site.images, failure, offset=offset, truncated=truncated))
        letters.append(Message(site.dead, b"key", b"" if truncated else b'{"n": 1}', headers))
    publish(site.servers, letters)
    listed = tagstream("dead-letters", "list", "--reason", "unreadable").done
    assert "failure 0" in listed
    assert "failure 1" not in listed
    assert "2 unreadable" in listed
    as_json = tagstream("dead-letters", "list", "--json", "--since", "1h").out.splitlines()
    assert [json.loads(line)["offset"] for line in as_json] == [0, 1, 2]
    for place in (f"{site.dead}:0:1", f"{site.images}:0:1"):
        shown = tagstream("dead-letters", "show", place)
        assert "failure 1" in shown.out
        assert '"n": 1' in shown.out
    assert tagstream("dead-letters", "show", f"{site.dead}:0:9").code == 2
    dry = tagstream("dead-letters", "replay", "--reason", "unreadable")
    assert "1 would be sent back" in dry.out
    assert "1 can't be sent" in dry.out
    assert site.records(site.images) == []
    assert "1 sent back" in tagstream("dead-letters", "replay", "--reason", "unreadable", "--go").out
    (sent,) = site.records(site.images)
    assert (sent.key, sent.value, sent.headers[0]) == (b"key", b'{"n": 1}', ("h", b"x"))
    assert only_indexes(sent.headers) == frozenset({2})


NASTY = "photos/\\[/x][bold]\x1b[2J\x9b31m\u202egpj.\x07\n:smile:"
"""A legal key that is markup, clears a screen, turns the direction of writing, and names another image."""


def test_what_strangers_write_ends_no_command_and_reaches_the_terminal_as_plain_text(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    failure = Failure(index=0, stage="fetch", reason="unreadable", detail=NASTY)

    def headers(topic: str, **more: bytes) -> Headers:
        made = letter_of(topic, failure, timestamp_ms=2**62, worker=NASTY, models={NASTY: NASTY})
        return (*made, *((f"tagstream-{name}", value) for name, value in more.items()), (NASTY, NASTY.encode()))

    deep = b'{"a":' * 100_000
    value = json.dumps({"n": NASTY, "deep": json.loads("[" * 150 + "]" * 150)}).encode()
    letters_sent = (
        (NASTY.encode(), value, headers(site.images)),
        (NASTY.encode(), value, headers("__consumer_offsets")),
        (b"\xff", deep, headers(site.images, failures=b"[]")),
        (b"k", deep, headers(site.images, failures=deep)),
        (b"k", deep, headers(site.images, models=b"9" * 100_000)),
        (b"k", b"{}", ()),
    )
    publish(site.servers, (Message(site.dead, *each) for each in letters_sent))
    foreign = (deep, b"9" * 100_000, b"[1]", b'{"schema":"enriched-image/1","tags":[null]}', b"\xff", b"")
    site.send(*foreign, topic=f"{site.name}.enriched")

    letters = ("list", "list --json", f"show {site.dead}:0:0", f"show {site.dead}:0:0 --json", "replay", "replay --go")
    commands = (*(f"dead-letters {command}" for command in letters), "tail --no-follow", "tail --no-follow --json")
    ran = {command.removeprefix("dead-letters "): tagstream(*command.split()) for command in commands}
    for command, each in ran.items():
        assert each.code == 0, (command, each.err)
        assert all(line.isprintable() for line in each.out.splitlines() + each.err.splitlines()), command
    assert "4 records skipped" in ran["list"].err
    assert r"photos/\[/x][bold]" in ran["list"].out
    assert [json.loads(line)["key"] for line in ran["list --json"].out.splitlines()] == [NASTY, NASTY]
    shown = json.loads(ran[f"show {site.dead}:0:0 --json"].out)
    assert (shown["key"], shown["original"]["key"]) == (NASTY, NASTY)
    assert "1 not sent: they name the topic '__consumer_offsets'" in ran["replay"].out
    assert "1 would be sent back" in ran["replay"].out
    assert len(site.records(site.images)) == 1
    assert len(ran["tail --no-follow"].out.splitlines()) == 1 + 12
    assert sum(json.loads(line)["schema"] is None for line in ran["tail --no-follow --json"].out.splitlines()) == 10
    assert "2 would be sent" in tagstream("dead-letters", "replay", "--topic", "__consumer_offsets").out


def test_a_dead_letter_that_its_topic_does_not_take_keeps_no_other_from_being_sent_back(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    small, large = f"{site.name}.small", f"{site.name}.large"
    letters = f"{site.name}.letters"
    most = {small: "2000", large: "3000000", letters: "4000000"}
    ensure_topics(site.servers, {topic: (1, {"max.message.bytes": size}) for topic, size in most.items()})
    sizes = [(small, 3_000), (large, 2_000_000), (small, 2)]
    with KafkaEmitter(site.servers, max_message_bytes=4_000_000) as emitter:
        emitter.emit(Message(letters, b"key", b" " * size, letter_of(topic)) for topic, size in sizes)
    replay = ("dead-letters", "replay", "--topic", small, "--topic", large, "--go")
    ran = tagstream(*replay, DEAD_LETTER_TOPIC=letters)
    assert (ran.code, ran.err) == (0, "")
    assert f"{letters}:0:0 not sent: " in ran.out
    assert "2 sent back" in ran.out
    assert [len(record.value or b"") for record in site.records(small)] == [2]


def test_a_replay_keeps_to_its_rate(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    publish(site.servers, [Message(site.dead, b"key", b"{}", letter_of(site.images))] * 5)
    started = time.monotonic()
    assert "4 sent back" in tagstream("dead-letters", "replay", "--go", "--rate", "4", "--limit", "4").out
    assert time.monotonic() - started >= 0.75


def test_a_replay_that_is_stopped_says_how_far_it_came(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    publish(site.servers, [Message(site.dead, b"key", b"{}", letter_of(site.images))] * 2)
    command = [sys.executable, "-m", "workers", "dead-letters", "replay", "--go", "--rate", "0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as replay:
        eventually(lambda: list(site.records(site.images)), 30)
        replay.send_signal(signal.SIGINT)
        told = replay.communicate(timeout=100)[1]
    assert replay.returncode == 130, told
    assert f"stopped: 1 of 2 sent back, the last is {site.dead}:0:0. The same command sends all again." in told


def test_a_record_is_skipped_into_the_dead_letters_and_only_the_next_one(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    site.send(b"poison", b"next")
    assert "is 0, not 1: nothing was skipped" in tagstream("dead-letters", "skip", f"{site.images}:0:1", "--go").fails()
    tried = tagstream("dead-letters", "skip", f"{site.images}:0:0")
    assert tried.out.startswith(f"{site.images}:0:0 would be replaced by a dead letter")
    assert site.records(site.dead) == []
    assert tagstream("dead-letters", "skip", f"{site.images}:0:0", "--go").code == 0
    assert lag(site.servers, site.name, [site.images]) == {Partition(site.images, 0): 1}
    dead_letter = tagstream("dead-letters", "list", "--json").json
    assert (dead_letter["topic"], dead_letter["offset"]) == (site.images, 0)
    assert dead_letter["failures"][0]["reason"] == "skipped-by-operator"
    for options in ((), ("--go",)):
        assert "is 1, not 0" in tagstream("dead-letters", "skip", f"{site.images}:0:0", *options).fails()


def test_a_record_that_can_not_be_read_is_skipped_unread(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    """Guard: `skip` read the record first: it hung on one, and took the memory of the other."""
    zstd = zstandard.ZstdCompressor().compress
    for data in (
        batch([record(b"odd", headers=[(b"\xff", b"")])]),
        batch([record(bytes(400 << 20))], attributes=ZSTD, compress=zstd),
    ):
        assert produce(site.servers, site.images, 0, data)[0] == 0
    for offset in (0, 1):
        began = time.monotonic()
        assert tagstream("dead-letters", "skip", f"{site.images}:0:{offset}", "--go").code == 0
        assert time.monotonic() - began < 15
    assert lag(site.servers, site.name, [site.images]) == {Partition(site.images, 0): 0}
    assert "has no record at 2 (yet)" in tagstream("dead-letters", "skip", f"{site.images}:0:2").fails()
    letters = [json.loads(line) for line in tagstream("dead-letters", "list", "--json").out.splitlines()]
    assert [(dead_letter["offset"], dead_letter["truncated"]) for dead_letter in letters] == [(0, True), (1, True)]


def test_a_partition_that_does_not_exist_is_refused_before_a_group_is_joined(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    """Guard: joining takes the partitions of every member for a moment, and was waited for half a minute."""
    said = tagstream("dead-letters", "skip", f"{site.images}:7:0", "--go").fails()
    assert f"{site.images} has no partition 7" in said
    assert "waiting" not in said
    with group_watch(site.servers, site.name, [site.images]) as watch:
        assert watch.look().state == "dead"  # as Kafka calls a group that never was


def test_a_check_of_sound_settings_ends_with_0_and_with_only_a_dependency_away_with_4(
    site: TopicsAndBucket, folder: Path, tagstream: Tagstream
) -> None:
    tagstream("emit", folder)
    shown = tagstream("check", DECODE_THREADS=1).done
    assert shown.count("✓") == 8
    assert "Decoders: child processes (1) decode good images of jpeg" in shown
    assert "Memory: up to " in shown
    assert site.environment["TAGSTREAM_S3_SECRET_KEY"] not in shown
    away = tagstream("check", DECODE_THREADS=1, REDIS_URL="redis://127.0.0.1:1")
    assert (away.code, "✗ Redis" in away.out) == (4, True), away.out


def test_a_check_advises_against_an_input_topic_that_the_broker_opens(
    site: TopicsAndBucket, tagstream: Tagstream
) -> None:
    opened = f"{site.name}.opened"
    ensure_topics(site.servers, {opened: (1, {"compression.type": "uncompressed"})})
    topics = f"{site.images},{opened}:background"
    said = " ".join(tagstream("check", INPUT_TOPICS=topics, S3_ENDPOINT="").out.split())
    assert f"{opened} has compression.type=uncompressed: the broker opens what is compressed otherwise" in said
    assert f"{site.images} has compression.type" not in said
    assert f"has the topics {site.images}, {opened}:background, {site.name}.enriched" in said


def test_a_check_says_when_good_images_can_not_be_decoded(
    site: TopicsAndBucket, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = "import PIL.ImageFile\n\ndef load(image):\n    raise OSError('the codec is gone')\n\n"
    (tmp_path / "sitecustomize.py").write_text(broken + "PIL.ImageFile.ImageFile.load = load\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ran = tagstream("check")
    assert ran.code != 0
    assert "✗ Decoders: a decoder fails on an image known to be good" in ran.out


def test_a_check_tells_each_fault_and_how_to_repair_it(site: TopicsAndBucket, tagstream: Tagstream) -> None:
    ran = tagstream("check", OUTPUT_TOPIC=f"{site.name}.nowhere", TAGGER="/no/such/bundle")
    assert ran.code == 2
    assert f"the topic '{site.name}.nowhere' does not exist; create it first" in ran.out
    assert f"the bucket '{site.name}' does not exist: make it" in ran.out
    assert "is not a bundle" in ran.out
    assert "✓ Redis" in ran.out


def test_a_persons_correction_is_in_the_topic(
    site: TopicsAndBucket, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topic = f"{site.name}.corrections"
    missing = tagstream("correct", "photos/ü.jpg", "--add", "dog", "--topic", topic).fails()
    assert missing.endswith(f"as that of corrections once you set TAGSTREAM_CORRECTIONS_TOPIC={topic}\n")
    ensure_topics(site.servers, {topic: (1, {})})
    tried = tagstream("correct", "photos/ü.jpg", "--add", "cow", "--topic", topic, "--dry-run")
    assert tried.out == f"1 correction would be sent to {topic}; nothing was done\n"
    monkeypatch.setenv("TAGSTREAM_CORRECTIONS_TOPIC", topic)
    assert tagstream("correct", "photos/ü.jpg", "--add", "dog", "-r", "cat", "--by", "ann").out == (
        f"1 correction sent to {topic}\n"
    )
    tagstream("correct", "photos/b.jpg", "--add", "sun")
    tagstream("correct", "photos/b.jpg", "--withdraw")
    file = tmp_path / "two.jsonl"
    line = b'{"schema":"image-correction/1","bucket":"photos","key":"c.jpg","added":["sea"]}\n'
    file.write_bytes(line + line.replace(b'"added":["sea"]', b'"removed":["sky"]') + b"{\n")
    assert tagstream("correct", "--file", file).code == 2
    said = Corrections()
    for found in site.records(topic):
        said.take(found.key, found.value)
    assert {subject: said.on(subject, "0" * 64) for subject in said} == {
        "photos/ü.jpg": Word(("dog",), ("cat",)),
        "photos/c.jpg": Word(("sea",), ("sky",)),
    }


def test_a_correction_that_no_worker_applies_is_an_error_that_says_what_to_look_at(
    site: TopicsAndBucket, tagstream: Tagstream, store: MinioObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, image = f"{site.name}.said", f"{site.name}/a.jpg"
    ensure_topics(site.servers, {said: (1, {})})
    monkeypatch.setattr(corrections, "_PAUSE_S", 0.1)
    monkeypatch.setattr(corrections, "_QUIET_S", 1.0)
    command = ("correct", image, "--add", "dog", "--apply")
    assert "TAGSTREAM_CORRECTIONS_TOPIC" in tagstream(*command).err
    monkeypatch.setenv("TAGSTREAM_CORRECTIONS_TOPIC", said)
    store.make_bucket(site.name)
    assert f"the store has no {image}" in tagstream(*command).err
    assert site.records(said) == []
    store.put(site.name, "a.jpg", b"pixels")
    assert "is a worker running?" in tagstream(*command).fails()
    (event,) = [json.loads(found.value or b"") for found in site.records(site.images)]
    assert event["key"] == "a.jpg"
    assert event["etag"]
    assert event["event_time"]


def test_enriched_and_corrected_images_become_a_training_set(
    site: TopicsAndBucket, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topic, said = f"{site.name}.enriched", f"{site.name}.said"
    ensure_topics(site.servers, {said: (1, {})})
    monkeypatch.setenv("TAGSTREAM_OUTPUT_TOPIC", topic)
    monkeypatch.setenv("TAGSTREAM_CORRECTIONS_TOPIC", said)
    names = ("a.jpg", "b.jpg", "c.jpg")
    site.send(b"{", *(enriched_photo(name, "dog", "cat").to_bytes() for name in names), topic=topic)
    tagstream("correct", "photos/b.jpg", "--add", "terrier", "--remove", "cat")
    first = tagstream("train", "collect", "--out", tmp_path / "set")
    assert (first.code, first.out) == (0, f"3 images in {tmp_path / 'set'}, 1 of them or others corrected\n")
    assert "1 record skipped" in first.err
    made = DataSet(tmp_path / "set")
    assert [[made.labels[tag] for tag in sample.tags] for sample in made] == [
        ["dog", "cat"],
        ["dog", "terrier"],
        ["dog", "cat"],
    ]
    site.send(enriched_photo("d.jpg", "sea").to_bytes(), topic=topic)
    again = tagstream("train", "collect", "--out", tmp_path / "set")
    assert again.out.startswith("4 images in")
    assert "skipped" not in again.err  # collected records are not read again


def test_two_topics_are_compared_image_by_image(site: TopicsAndBucket, tagstream: Tagstream, tmp_path: Path) -> None:
    candidate = f"{site.name}.skipped"
    for topic, tags in ((f"{site.name}.enriched", ("dog", "grass")), (candidate, ("dog",))):
        images = (enriched_photo(f"{number}.jpg", *tags).to_bytes() for number in range(3))
        site.send(*images, b"no outcome", None, topic=topic)
    compared = ("compare", f"{site.name}.enriched", candidate, "--images", "3", "--label-images", "1", "--json")
    refused = tagstream(*compared, "--jaccard", "0.6")
    found = json.loads(refused.out)
    assert (refused.code, found["may_be_promoted"], found["compared"]) == (1, False, 3)
    assert found["mean_jaccard"] == pytest.approx(0.5)
    assert found["lost_labels"] == {"grass": 3}
    accepted = tagstream(*compared, "--jaccard", "0.4", "--may-lose-labels", "--changes", tmp_path / "changes")
    head, lines = read_changes(tmp_path / "changes")
    changed = list(lines)
    assert (head.after, head.images, head.plan) == (candidate, 3, "")
    assert [(*each.kept, *each.lost) for each in changed] == [("dog", "grass")] * 3
    score = enriched_photo("a.jpg", "grass").tags[0].score
    assert changed[0].numbers["grass"] == (score, None, None, None)
    assert changed[0].sha256 == enriched_photo("0.jpg").source.sha256
    assert (accepted.code, json.loads(accepted.out)["objections"]) == (0, [])
    assert accepted.err.count("1 record skipped") == accepted.err.count("1 record of null value") == 2
