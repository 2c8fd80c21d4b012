"""Forgotten images stay forgotten, for any records in the topic and any interruption."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.correction import Corrections, correction
from schemas.enriched_image import Retraction, read_output
from schemas.text import VERSION_MAX
from tagstream_testing.memory_kafka import Fault, MemoryPublisher
from tagstream_train.engine.collect import Collection
from tests.unit.retag.retagging import TOPIC, EnrichedTopic, V
from tests.unit.retag.stored import outcome, today
from workers.audit.judge import Judge, Topics
from workers.audit.report import AuditReport
from workers.audit.seen import Seen
from workers.rendition import Rendition
from workers.republish.forgetting import Forgetting, Subjects, forget
from workers.republish.passes import Bounds
from workers.types import NO_MEMBERSHIP, Message, ReadRecord

SAID = "images.corrections"
ONE = Subjects(frozenset(["photos/a"]))


class ForgettingTopic(EnrichedTopic):
    def __init__(self, folder: Path, partitions: int = 3) -> None:
        self.now = today(folder, thresholds=0.5)
        super().__init__(partitions)
        self.broker.create_topic(SAID, 2)

    def outcome(self, key: str, version: int = V, place: int | None = None) -> None:
        document, _ = outcome(self.now, {"red": 0.9}, key=key)
        document["version"] = version
        self.send(document["subject"].encode(), orjson.dumps(document), version, place=place)

    def say(self, key: str, *added: str) -> None:
        said = correction("photos", key, added=added)
        with self.broker.changed:
            self.broker.send(Message(SAID, said.key, said.value, ()), None)

    def forget(self, chosen: Subjects = ONE, most: int = 500, most_bytes: int = 1 << 20) -> Counter[str]:
        publisher = MemoryPublisher(
            self.broker, "g-forget", "g-forget", membership=lambda: NO_MEMBERSHIP, output_topics=[TOPIC, SAID]
        )
        seen: set[tuple[str, int, int]] = set()
        with Forgetting(chosen, SAID) as forgetting:

            def read() -> None:
                for topic, take in ((TOPIC, forgetting.take), (SAID, forgetting.take_correction)):
                    for record in self.broker.visible(topic):
                        place = (topic, record.partition, record.offset)
                        if place not in seen:
                            seen.add(place)
                            take(record)

            done = forget(forgetting, read, publisher, Bounds(most, most_bytes))
        publisher.close()
        return done

    def values(self, key: bytes) -> list[Any]:
        """The records of a key: documents, and None for tombstones."""
        found = [each for each in self.broker.visible(TOPIC) if each.key == key]
        return [None if each.value is None else read_output(each.value) for each in found]

    def audit(self) -> AuditReport:
        with Seen() as seen:
            judge = Judge({}, Topics(TOPIC), seen)
            for record in self.broker.visible(TOPIC):
                judge.outcome(record)
            for record in self.broker.visible(TOPIC):
                judge.remade.record(record)
            judge.remade.settle({}, TOPIC)
            return judge.finish()


@pytest.fixture
def scene(tmp_path: Path) -> ForgettingTopic:
    return ForgettingTopic(tmp_path)


def test_a_retraction_that_names_the_newest_record_and_a_tombstone_end_a_subject(scene: ForgettingTopic) -> None:
    scene.outcome("a", V + 7)
    scene.outcome("a", V)
    scene.outcome("b")
    done = scene.forget()
    assert done == {"due": 1, "retractions": 1, "tombstones": 1}
    *_, gone, tombstone = scene.values(b"photos/a")
    assert isinstance(gone, Retraction)
    assert (gone.event.topic, gone.event.offset, gone.version) == (TOPIC, 0, V + 8)
    assert tombstone is None
    assert len(scene.values(b"photos/b")) == 1
    report = scene.audit()
    assert (report.proved, report.remade, report.tombstones) == (True, 1, 1)


def test_a_second_run_publishes_nothing(scene: ForgettingTopic) -> None:
    scene.outcome("a")
    scene.say("a", "kite")
    assert scene.forget()["due"] == 1
    assert not scene.forget()


def test_the_retractions_of_versions_get_tombstones_under_their_own_keys(scene: ForgettingTopic) -> None:
    scene.retraction("a", V, version_id="v/1")
    scene.retraction("b", V, version_id="v/1")
    done = scene.forget()
    assert done == {"due": 1, "tombstones": 1}
    assert scene.values(b"photos?versionId=v%2F1/a")[1:] == [None]
    assert len(scene.values(b"photos?versionId=v%2F1/b")) == 1
    assert not scene.forget()


@pytest.mark.parametrize("newest", [0, 1, 2])
def test_each_partition_with_a_record_of_the_subject_gets_its_tombstone(scene: ForgettingTopic, newest: int) -> None:
    """The topic has more partitions now."""
    for place in range(3):
        scene.outcome("a", V + 5 * (place == newest), place)
    done = scene.forget()
    assert done == {"due": 1, "retractions": 1, "tombstones": 3}
    last = {record.partition: record.value for record in scene.broker.visible(TOPIC)}
    assert last == {0: None, 1: None, 2: None}
    assert scene.audit().proved


@pytest.mark.parametrize("version", [V - 5, V + 50])
def test_outcomes_of_a_late_worker_behind_the_tombstone_are_taken_back_too(
    scene: ForgettingTopic, version: int
) -> None:
    scene.outcome("a")
    scene.forget()
    scene.outcome("a", version)
    assert scene.forget()["retractions"] == 1
    assert scene.values(b"photos/a")[-1] is None
    assert scene.audit().proved
    assert not scene.forget()


def test_a_workers_retraction_gets_the_tombstone_that_it_lacks(scene: ForgettingTopic) -> None:
    scene.outcome("a")
    scene.retraction("a", V + 1)
    scene.forget()
    assert scene.values(b"photos/a")[-1] is None
    scene.outcome("b")
    scene.retraction("b", V + 1)
    scene.send(b"photos/b", None, V + 2)
    assert not scene.forget(Subjects(frozenset(["photos/b"])))


def test_a_tombstone_of_a_smaller_version_does_not_end_a_newer_outcome(scene: ForgettingTopic) -> None:
    scene.outcome("a", V + 50)
    scene.send(b"photos/a", None, V)
    assert scene.forget()["retractions"] == 1
    assert not scene.forget()


def test_the_largest_version_is_not_exceeded(scene: ForgettingTopic) -> None:
    scene.outcome("a", VERSION_MAX)
    scene.forget()
    gone = scene.values(b"photos/a")[-2]
    assert isinstance(gone, Retraction)
    assert gone.version == VERSION_MAX
    assert not scene.forget()


def test_foreign_records_under_the_key_go_too(scene: ForgettingTopic) -> None:
    scene.send(b"photos/a", b"no JSON")
    scene.send(b"photos/a", b'{"schema":"skipped/1"}')
    scene.send(b"photos/\xff", b"not UTF-8")
    scene.send(b"photos/a\0b", b"no object has this name")
    scene.send(b"photos/a\0b", b'{"schema":"image-retraction/1","version":1,"produced_at":"","event":{"time":""}}')
    done = scene.forget(Subjects(prefix="photos/"))
    assert done == {"due": 2, "tombstones": 2}
    assert not scene.forget(Subjects(prefix="photos/"))


BESIDE = Rendition.of("{bucket}-web/s/{key}.jpg", ["photos", "photos-web", "photos-web-web"])


@pytest.mark.parametrize("chosen", [Subjects(frozenset(["photos/a/1.png"])), Subjects(prefix="photos/a/")])
def test_an_original_is_forgotten_with_its_rendition_and_no_other_object_of_that_bucket(
    scene: ForgettingTopic, chosen: Subjects
) -> None:
    chosen = chosen.with_renditions(BESIDE)
    names = ["photos/a/1.png", "photos-web/s/a/1.png.jpg"]
    others = ["photos/b/1.png", "photos-web/s/a/1.gif", "photos-web/s/b/1.png.jpg", "photos-web/a/1.png.jpg"]
    for name in (*names, *others):
        scene.send(name.encode(), b"an outcome of before the setting")
    assert scene.forget(chosen) == {"due": 2, "tombstones": 2}
    gone = {each.key for each in scene.broker.visible(TOPIC) if each.value is None}
    assert gone == {name.encode() for name in names}
    assert chosen.in_store("photos/a/1.png") == names, "both must have been removed"
    if chosen.prefix:
        assert chosen.in_store("photos-web/s/a/1.png.jpg") == [], "its original is asked about"


def test_no_renditions_are_known_of_a_prefix_where_the_extension_stands_first() -> None:
    by_extension = Rendition.of("{bucket}-web/{extension}/{stem}", ["photos", "photos-web", "photos-web-web"])
    assert Subjects(prefix="photos/a").with_renditions(by_extension).copies == ""
    assert Subjects(prefix="elsewhere/a").with_renditions(BESIDE).copies == ""
    assert Subjects(prefix="photos/a").with_renditions(Rendition()).copies == ""


def test_corrections_are_withdrawn_once_in_their_partition(scene: ForgettingTopic) -> None:
    scene.say("a", "kite")
    scene.say("b", "dog")
    done = scene.forget(Subjects(prefix="photos/a"))
    assert done == {"due": 1, "withdrawals": 1}
    said = [(each.key, each.partition, each.value is None) for each in scene.broker.visible(SAID)]
    first = next(place for key, place, gone in said if key == b"photos/a" and not gone)
    assert (b"photos/a", first, True) in said
    assert not any(key == b"photos/b" and gone for key, _, gone in said)


@pytest.mark.parametrize("fault", [Fault.SEND, Fault.COMMIT_LOST, Fault.COMMIT_UNACKNOWLEDGED])
def test_a_failed_transaction_loses_and_repeats_no_message(scene: ForgettingTopic, fault: Fault) -> None:
    for number in range(9):
        scene.outcome(f"a{number}")
    scene.broker.fail_next(fault)
    scene.forget(Subjects(prefix="photos/a"), most=4)
    retracted = [each for each in scene.broker.visible(TOPIC) if b"image-retraction/1" in (each.value or b"")]
    assert len(retracted) == 9
    assert scene.audit().proved


def test_transactions_are_bounded_in_records_and_bytes(scene: ForgettingTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    publish = MemoryPublisher.publish

    def noted(self: MemoryPublisher, transaction: Any) -> None:
        sizes.append((len(transaction.messages), sum(each.size for each in transaction.messages)))
        publish(self, transaction)

    monkeypatch.setattr(MemoryPublisher, "publish", noted)
    for number in range(10):
        scene.outcome(f"a{number}")
        scene.outcome(f"b{number}")
    scene.forget(Subjects(prefix="photos/a"), most=6)
    assert [count for count, _ in sizes] == [6, 6, 6, 2]
    sizes.clear()
    scene.forget(Subjects(prefix="photos/b"), most_bytes=3_000)
    assert [count for count, _ in sizes] == [8, 8, 4]
    assert max(size for _, size in sizes) <= 3_000


def test_a_stopped_run_publishes_whole_subjects_and_continues_later(scene: ForgettingTopic) -> None:
    for number in range(6):
        scene.outcome(f"a{number}")
    publisher = MemoryPublisher(
        scene.broker, "g", "g-forget", membership=lambda: NO_MEMBERSHIP, output_topics=[TOPIC, SAID]
    )
    told: list[int] = []
    with Forgetting(Subjects(prefix="photos/")) as forgetting:
        for record in scene.broker.visible(TOPIC):
            forgetting.take(record)
        bounds = Bounds(4, 1 << 20, lambda: bool(told))
        forget(forgetting, lambda: None, publisher, bounds, told.append)
    assert told == [2]
    assert len([each for each in scene.broker.visible(TOPIC) if each.value is None]) == 2
    assert scene.forget(Subjects(prefix="photos/"))["due"] == 4


def test_equal_content_is_known_by_its_hash(scene: ForgettingTopic) -> None:
    scene.outcome("a")
    document = orjson.loads(scene.broker.visible(TOPIC)[0].value or b"")
    with Forgetting(ONE) as forgetting:
        for record in scene.broker.visible(TOPIC):
            forgetting.take(record)
        assert forgetting.has_content(document["source"]["sha256"])
        assert not forgetting.has_content("0" * 64)


@pytest.mark.parametrize("kept", ["everything", "the last of each key", "nothing"])
@pytest.mark.parametrize("began_before", [False, True])
def test_a_training_set_takes_nothing_of_it(
    scene: ForgettingTopic, tmp_path: Path, kept: str, began_before: bool
) -> None:
    scene.outcome("a")
    scene.retraction("a", V - 1, version_id="v1")
    scene.say("a", "kite")
    with Collection(tmp_path / "collected.sqlite") as collection:

        def collect(records: Iterable[ReadRecord]) -> None:
            for each in records:
                collection.take(each.value, each.key, each.headers)
            collection.commit({})

        if began_before:
            collect(scene.broker.visible(TOPIC))
            assert len(collection) == 1
        scene.forget()
        last = {each.key: each for each in scene.broker.visible(TOPIC)}
        left = {"everything": scene.broker.visible(TOPIC), "the last of each key": last.values(), "nothing": ()}
        if kept != "nothing" or not began_before:
            collect(left[kept])
            assert len(collection) == 0
    said = Corrections()
    for each in scene.broker.visible(SAID):
        said.take(each.key, each.value)
    assert len(said) == 0
