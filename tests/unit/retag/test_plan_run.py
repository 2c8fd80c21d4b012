"""`retag go` on an enriched topic in memory: fates of planned records, also with faults."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from schemas.correction import Word
from schemas.enriched_image import read_output
from schemas.image_event import ImageEvent, parse_message
from schemas.stored_scores import SCORES_HEADER
from schemas.text import VERSION_MAX
from schemas.version import VERSION_HEADER
from tagstream_testing.memory_kafka import Fault
from tests.unit.retag.retagging import EVENTS, TOPIC, Retagging, V
from tests.unit.retag.stored import outcome, today
from workers.errors import Broken, Misconfigured
from workers.republish.passes import Stale
from workers.retag.plan_run import PlanRun
from workers.retag.planned_work import event_id
from workers.types import Partition

SAME = {"red": 0.9, "green": 0.2}
KEYS = [f"{number}.png" for number in range(20)]


@pytest.fixture
def scene(tmp_path: Path) -> Retagging:
    return Retagging(tmp_path)


def test_only_planned_records_are_remade_from_their_scores(scene: Retagging) -> None:
    scene.outcome("a.png")
    scene.outcome("b.png", scores=SAME)
    old = scene.documents("a.png")[0]
    (record,) = scene.records("a.png")
    report = scene.go()
    _, new = scene.documents("a.png")
    assert [tag["name"] for tag in new["tags"]] == ["red", "green"]
    assert new["version"] == V + 1
    assert {name: new["event"][name] for name in ("topic", "partition", "offset", "index")} == {
        "topic": TOPIC,
        "partition": record.partition,
        "offset": record.offset,
        "index": 0,
    }
    for name in ("id", "dialect", "time"):
        assert new["event"][name] == old["event"][name]
    assert (new["source"], new["models"], new["image"]) == (old["source"], old["models"], old["image"])
    assert len(scene.records("b.png")) == 1
    assert (report.planned, report.rescored, report.unchanged, report.repeated) == (1, 1, 0, 0)
    assert report.finished


def test_a_new_outcome_stays_in_its_partition_and_keeps_the_old_ones_fields(scene: Retagging) -> None:
    place = scene.outcome("a.png")
    first = scene.records()[0]
    scene.go()
    second = scene.records()[-1]
    assert second.partition == place.number
    assert dict(second.headers) == {**dict(first.headers), VERSION_HEADER: b"%d" % (V + 1)}
    assert second.value is not None
    read_output(second.value)


def test_a_second_run_and_a_second_plan_publish_nothing(scene: Retagging) -> None:
    plan = scene.planned(*KEYS)
    assert scene.go(plan).rescored == len(KEYS)
    before = scene.records()
    again = scene.go(plan)
    assert (again.rescored, again.earlier, again.repeated, again.finished) == (0, len(KEYS), 0, True)
    assert scene.plan("second").head.lines == 0
    assert scene.go(scene.plan("second")).planned == 0
    assert scene.records() == before


def test_only_chosen_subjects_are_remade_and_later_others_too(scene: Retagging) -> None:
    plan = scene.planned(*KEYS)
    first, later = [{f"photos/{key}" for key in keys} for keys in (KEYS[5:8], KEYS[::2])]
    report = scene.go(plan.of_subjects(first))
    assert (report.planned, report.rescored, report.finished) == (3, 3, True)
    assert {each["subject"] for each in scene.documents() if each["version"] > V} == first
    report = scene.go(plan.of_subjects(later - first))
    assert (report.planned, report.rescored, report.earlier) == (9, 9, 0)
    changed = [each["subject"] for each in scene.documents() if each["version"] > V]
    assert sorted(changed) == sorted(first | later), "none is published twice"
    assert scene.go(plan.of_subjects(set())).planned == 0


def test_images_are_asked_for_by_own_events(scene: Retagging) -> None:
    plan = scene.planned("a.png", stored=False, want=("tags",), profile=None)
    (line,) = plan
    report = scene.go(plan)
    (record,) = scene.broker.visible(EVENTS)
    assert record.key == b"photos/a.png"
    (event,) = parse_message(record.value, record.headers, topic=EVENTS, partition=0, offset=0)
    assert isinstance(event, ImageEvent)
    assert event.id == event_id(plan.digest, line.partition, line.offset)
    assert (event.bucket, event.key, event.etag, event.size) == ("photos", "a.png", "e1", 1000)
    assert event.event_time == "2023-11-14T22:13:20.000001+00:00"
    assert event.options.want == ("tags",)
    assert (report.images, report.rescored) == (1, 0)


def test_images_are_asked_for_to_learn_the_facts_of_their_pictures(scene: Retagging) -> None:
    scene.outcome("a.png", by=scene.now)
    scene.outcome("b.png", by=scene.now)
    assert list(scene.plan()) == []
    plan = scene.plan("facts", facts=True)
    assert [(line.verdict, line.reason) for line in plan] == [("image", "facts")] * 2
    assert scene.go(plan).images == 2
    keys = {record.key for record in scene.broker.visible(EVENTS)}
    assert keys == {b"photos/a.png", b"photos/b.png"}


def test_events_for_images_keep_their_pace_and_stop_with_the_run(scene: Retagging) -> None:
    for key in KEYS:
        scene.outcome(key, stored=False)
    plan, runs = scene.plan(), list[PlanRun]()

    class SixAndStop:
        sent = 0

        def ready(self) -> bool:
            if self.sent == 6:
                runs[0].stop()
            return self.sent < 6

        def spend(self) -> None:
            self.sent += 1

    runs.append(scene.prepare(plan, pace=SixAndStop()))
    report = runs[0].run()
    assert not report.finished
    assert report.images == len(scene.events()) == 6
    rest = scene.go(plan)
    assert (rest.earlier, rest.images, rest.finished) == (6, len(KEYS) - 6, True)
    assert len({each["id"] for each in scene.events()}) == len(scene.events()) == len(KEYS)


def test_a_record_that_was_compacted_away_is_overtaken(scene: Retagging) -> None:
    plan = scene.planned(*KEYS)
    for key in KEYS[:5]:
        scene.outcome(key, V + 100, by=scene.now)
    scene.broker.compact(TOPIC)
    report = scene.go(plan)
    assert (report.planned, report.overtaken, report.rescored) == (20, 5, 15)
    assert [each["version"] for each in scene.documents(KEYS[0])] == [V + 100]


def test_records_that_all_are_gone_are_overtaken_although_nothing_stands_behind_them(scene: Retagging) -> None:
    plan = scene.planned("a.png")
    scene.tombstone("a.png", V + 5)
    scene.broker.compact(TOPIC)
    report = scene.go(plan)
    assert (report.overtaken, report.rescored, report.finished) == (1, 0, True)


def test_a_corrected_outcome_that_fits_already_stays_unchanged(scene: Retagging) -> None:
    """The plan had a correction that was withdrawn before the run."""
    scene.outcome("a.png", scores=SAME)
    scene.say("a.png", "teal")
    plan = scene.plan()
    assert plan.head.lines == 1
    scene.say("a.png")
    report = scene.go(plan)
    assert (report.unchanged, report.rescored) == (1, 0)
    assert len(scene.records()) == 1


def test_a_correction_before_the_start_is_heeded_and_a_later_one_wins_by_its_own_outcome(scene: Retagging) -> None:
    scene.outcome("before.png")
    scene.outcome("later.png")
    plan = scene.plan()
    scene.say("before.png", "teal")
    going = scene.prepare(plan)  # reads corrections up to their end
    scene.say("later.png", "teal")
    scene.outcome("later.png", V + 1_000_000, by=scene.now, word=Word(("teal",), ()))
    going.run()
    assert "teal" in scene.tags("before.png")
    assert "teal" in scene.tags("later.png")
    assert scene.documents("later.png")[-1]["version"] == V + 1_000_000


def test_a_newer_outcome_that_a_new_one_follows_is_published_again(scene: Retagging) -> None:
    plan = scene.planned("a.png")
    scene.outcome("a.png", V + 500, by=scene.now, scores={"blue": 0.8})
    newest = scene.records("a.png")[-1]
    report = scene.go(plan)
    last = scene.documents("a.png")[-1]
    assert (report.rescored, report.repeated) == (1, 1)
    assert last["version"] == V + 500
    assert [tag["name"] for tag in last["tags"]] == ["blue"]
    event = last["event"]
    assert (event["topic"], event["partition"], event["offset"]) == (TOPIC, newest.partition, newest.offset)
    assert scene.records("a.png")[-1].headers == newest.headers


def test_a_retraction_is_published_again_with_its_tombstone(scene: Retagging) -> None:
    plan = scene.planned("a.png")
    scene.retraction("a.png", V + 500)
    scene.tombstone("a.png", V + 501)
    report = scene.go(plan)
    assert report.repeated == 2
    *_, retraction, tombstone = scene.records("a.png")
    assert orjson.loads(retraction.value or b"")["version"] == V + 500
    assert tombstone.value is None
    assert scene.go(plan).repeated == 0


def test_passes_repeat_until_one_publishes_nothing(scene: Retagging) -> None:
    scene.outcome("a.png")
    late = iter([(V + 5, V + 2), (V + 3,), (V + 9,)])

    def come_late() -> None:
        for version in next(late, ()):
            scene.outcome("a.png", version)

    scene.topic.before = come_late
    assert scene.go().repeated == 2
    assert scene.documents("a.png")[-1]["version"] == V + 9
    assert next(late, None) is None


def test_a_producer_of_older_outcomes_does_not_hold_up_a_run(
    scene: Retagging, caplog: pytest.LogCaptureFixture
) -> None:
    scene.outcome("a.png", V + 9)

    def older() -> None:
        scene.outcome("a.png", V)

    scene.topic.before = older
    report = scene.go()
    assert (report.repeated, report.finished) == (5, True)
    assert "others still write older outcomes" in caplog.text


def test_a_hidden_state_that_its_topic_no_longer_takes_ends_the_passes(scene: Retagging) -> None:
    scene.outcome("a.png", V + 9)
    scene.outcome("a.png", V)
    plan = scene.plan()
    scene.broker.create_topic(TOPIC, len(scene.partitions), max_message_bytes=100)
    assert scene.go(plan).repeated == 0


def test_another_producers_tombstone_withdraws_earlier_outcomes(scene: Retagging) -> None:
    scene.outcome("a.png", V + 9)
    scene.outcome("a.png", V)
    scene.send(b"photos/a.png", None, None)
    assert scene.go().repeated == 0


@pytest.mark.parametrize("version", ["5", -1, 2**60, True])
def test_a_version_that_is_no_version_is_foreign_to_the_last_pass(scene: Retagging, version: object) -> None:
    document, _ = outcome(scene.then, SAME, key="a.png")
    scene.send(b"photos/a.png", orjson.dumps({**document, "version": version}), None)
    with Stale() as stale, pytest.raises(ValueError, match="version"):
        stale.take(scene.broker.visible(TOPIC)[-1])


@pytest.mark.parametrize("fault", list(Fault))
def test_a_transaction_of_unclear_fate_leaves_each_outcome_once(scene: Retagging, fault: Fault) -> None:
    plan = scene.planned(*KEYS)
    scene.broker.fail_next(fault)
    report = scene.go(plan)
    assert report.rescored == len(KEYS)
    assert sorted(each["version"] for each in scene.documents()) == [V] * 20 + [V + 1] * 20


def test_a_rebalance_in_the_middle_changes_nothing(scene: Retagging) -> None:
    plan = scene.planned(*KEYS)
    going = scene.prepare(plan)
    group, struck = f"tagstream-retag-{plan.digest[:12]}", iter([True, False])

    def strike() -> None:
        if next(struck, False):
            scene.broker.rebalance(group)
            for place in scene.partitions:
                scene.broker.regain(group, place)

    scene.broker.before_commit = strike
    report = going.run()
    assert (report.rescored + report.earlier, report.finished) == (len(KEYS), True)
    assert sorted(each["version"] for each in scene.documents()) == [V] * 20 + [V + 1] * 20


@pytest.mark.parametrize("after", range(6))
def test_a_killed_run_continues_at_its_place(scene: Retagging, after: int) -> None:
    for number, key in enumerate(KEYS):
        scene.outcome(key, stored=number % 2 == 0)
    plan = scene.plan()
    scene.killed(plan, after)
    report = scene.go(plan)
    assert report.finished
    assert report.earlier + report.rescored + report.images == len(KEYS)
    assert sorted(each["version"] for each in scene.documents()) == [V] * 20 + [V + 1] * 10
    assert len({each["id"] for each in scene.events()}) == len(scene.events()) == 10


def test_two_runs_of_one_plan_write_once(scene: Retagging) -> None:
    plan = scene.planned(*KEYS)
    first, second = scene.prepare(plan), scene.prepare(plan)
    for going in (first, second):  # the first finds its transactional id taken
        try:
            going.run()
        except Broken as error:
            assert "transactional id" in str(error)  # noqa: PT017
    scene.go(plan)
    assert sorted(each["version"] for each in scene.documents()) == [V] * 20 + [V + 1] * 20


def test_another_record_where_one_was_planned_is_no_case_for_this_plan(scene: Retagging) -> None:
    plan = scene.planned("a.png")
    other = Retagging(scene.folder / "other")
    other.outcome("a.png", V + 7)
    with pytest.raises(Misconfigured, match="not the record that was planned"):
        other.go(plan)


def test_a_new_outcome_that_its_topic_does_not_take_leaves_the_old_one(scene: Retagging) -> None:
    place = scene.outcome("a.png")
    plan = scene.plan()
    size = len(scene.records()[0].value or b"")
    scene.broker.create_topic(TOPIC, 2, max_message_bytes=size)
    report = scene.go(plan)
    assert (report.left, report.rescored, report.finished) == (1, 0, True)
    assert len(scene.records()) == 1, place


@pytest.mark.parametrize("stored", [True, False])
def test_an_outcome_of_the_greatest_version_is_left_for_no_reader_takes_a_greater_one(
    scene: Retagging, stored: bool
) -> None:
    scene.outcome("a.png", VERSION_MAX, stored=stored)
    report = scene.go()
    assert (report.left, report.rescored, report.images, report.finished) == (1, 0, 0, True)
    assert (len(scene.records()), scene.events()) == (1, [])


@pytest.mark.parametrize(("field", "value"), [("etag", "a b"), ("bucket", "other"), ("key", "\0"), ("version_id", 7)])
def test_an_image_that_no_worker_would_ask_for_is_left(scene: Retagging, field: str, value: object) -> None:
    document, _ = outcome(scene.then, SAME, key="a.png", stored=False)
    document["source"][field] = value
    scene.send(b"photos/a.png", orjson.dumps(document), V)
    report = scene.go()
    assert (report.left, report.images, scene.events()) == (1, 0, [])


def test_an_outcome_that_no_reader_takes_is_left(scene: Retagging) -> None:
    scene.outcome("a.png")
    document = scene.documents("a.png")[0]
    document["source"] |= {"key": "b.png", "last_modified": "noon"}
    document |= {"subject": "photos/b.png", "document_id": "photos/b.png"}
    scene.send(b"photos/b.png", orjson.dumps(document), V, scene.records("a.png")[0].headers[1:])
    report = scene.go()
    assert (report.planned, report.rescored, report.left, report.finished) == (2, 1, 1, True)


@pytest.mark.parametrize("value", [b"{}", b"[]", b'{"event": {}}', b"\xff"])
def test_a_record_that_no_reader_reads_is_not_published_again(scene: Retagging, value: bytes) -> None:
    plan = scene.planned("a.png")
    scene.send(b"photos/a.png", value, V + 500)
    report = scene.go(plan)
    assert (report.rescored, report.repeated, report.finished) == (1, 0, True)


def test_one_that_is_too_large_with_its_scores_goes_without_them(scene: Retagging) -> None:
    plan = scene.planned("a.png")
    scene.go(plan)
    size = max(len(each.value or b"") for each in scene.records()) + 200
    fresh = Retagging(scene.folder / "fresh")
    plan = fresh.planned("a.png")
    fresh.broker.create_topic(TOPIC, 2, max_message_bytes=size)
    assert fresh.go(plan).rescored == 1
    assert SCORES_HEADER not in dict(fresh.records()[-1].headers)


def test_a_plan_of_other_settings_is_refused(scene: Retagging, tmp_path: Path) -> None:
    plan = scene.planned("a.png")
    with pytest.raises(Misconfigured, match="profile default"):
        plan.require_fit(TOPIC, "", 2, today(tmp_path / "b", thresholds=0.4).parts)


def test_partitions_are_read_from_their_first_planned_record(scene: Retagging) -> None:
    for key in KEYS:
        scene.outcome(key, scores=SAME)
    plan = scene.planned("a.png")
    (line,) = plan
    assert (list(plan.of(line.partition)), list(plan.of(1 - line.partition))) == ([line], [])
    scene.go(plan)
    committed = scene.broker.committed(f"tagstream-retag-{plan.digest[:12]}")
    assert line.offset > 5
    assert committed[Partition(TOPIC, line.partition)] == line.offset + 1
