"""`audit --plan` of runs in memory: each planned record has one outcome, one event, or a reason for neither."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.retag.going import EVENTS, TOPIC, Retagging, V
from workers.audit.judge import Judge, Topics
from workers.audit.report import AuditReport
from workers.audit.seen import Seen
from workers.ports import SystemClock
from workers.retag.going import group_of
from workers.retag.judging import Retagger
from workers.retag.plan_file import PlanFile
from workers.retag.proof import PlanProof
from workers.types import Message, Partition

KEYS = [f"{number}.png" for number in range(8)]


def prove(scene: Retagging, plan: PlanFile) -> AuditReport:
    with Seen() as seen:
        judge = Judge({}, Topics(TOPIC, output_compacted=True), seen)
        for record in scene.records():
            judge.outcome(record)
        committed = {place.number: at for place, at in scene.broker.committed(group_of(plan.digest)).items()}
        proof = PlanProof(
            plan,
            Retagger(scene.now, scene.corrections, SystemClock()),
            seen,
            judge.report,
            answered=judge.remade.has,
            committed=committed,
            limit=scene.broker.max_message_bytes(TOPIC),
        )
        for record in scene.broker.visible(EVENTS):
            proof.event(record)
        spans, named = proof.spans, judge.remade.spans(TOPIC)
        for record in scene.records():
            place = Partition(TOPIC, record.partition)
            for known, take in ((spans, proof.record), (named, judge.remade.record)):
                first, end = known.get(place, (0, 0))
                if first <= record.offset < end:
                    take(record)
        proof.settle()
        judge.remade.settle({}, TOPIC)
        return judge.report


def counted(report: AuditReport) -> dict[str, Any]:
    return {name: count for name, count in (report.plan or {}).items() if name not in ("digest", "planned")}


@pytest.fixture
def scene(tmp_path: Path) -> Retagging:
    return Retagging(tmp_path)


def test_each_planned_record_has_what_became_of_it(scene: Retagging) -> None:
    for number, key in enumerate(KEYS):
        scene.outcome(key, stored=number % 4 != 0)
    scene.outcome("same.png", scores={"red": 0.9})
    scene.say("same.png", "teal")
    plan = scene.plan()
    scene.say("same.png")
    scene.outcome(KEYS[1], V + 50, by=scene.now)
    scene.broker.compact(TOPIC)
    scene.go(plan)
    report = prove(scene, plan)
    assert report.proved, report.findings
    assert report.plan is not None
    assert (report.plan["planned"], report.plan["digest"]) == (9, plan.digest)
    assert counted(report) == {"outcome": 5, "event": 2, "unchanged": 1, "overtaken": 1}
    scene.say("same.png", "teal")  # later than the run, which heard nothing of it
    assert counted(prove(scene, plan))["unchanged"] == 1


def test_what_a_run_has_not_come_to_is_in_flight(scene: Retagging) -> None:
    for key in KEYS:
        scene.outcome(key)
    plan = scene.plan()
    assert counted(prove(scene, plan)) == {"in-flight": 8}
    scene.killed(plan, 1)
    found = counted(prove(scene, plan))
    assert found["outcome"] > 0
    assert found["in-flight"] > 0
    assert prove(scene, plan).proved


def test_a_planned_record_without_its_outcome_is_missing(scene: Retagging) -> None:
    scene.outcome("a.png")
    plan = scene.plan()
    (line,) = plan
    with scene.broker.changed:
        offsets = {Partition(TOPIC, number): 10 for number in range(2)}
        scene.broker._group(group_of(plan.digest)).offsets.update(offsets)
    report = prove(scene, plan)
    assert counted(report) == {"missing": 1}
    assert [one.record for one in report.findings["missing"]] == [f"{TOPIC}:{line.partition}:{line.offset}"]


def test_an_image_that_was_requested_twice_is_found(scene: Retagging) -> None:
    scene.outcome("a.png", stored=False)
    plan = scene.plan()
    scene.go(plan)
    (event,) = scene.events()
    with scene.broker.changed:
        scene.broker.send(Message(EVENTS, b"photos/a.png", orjson.dumps(event), ()), None)
    report = prove(scene, plan)
    assert counted(report) == {"event": 1}
    assert report.counts == {"doubled": 1}


def test_one_whose_new_outcome_the_topic_does_not_take_is_left_and_no_fault(scene: Retagging) -> None:
    scene.outcome("a.png")
    plan = scene.plan()
    scene.broker.create_topic(TOPIC, 2, max_message_bytes=len(scene.records()[0].value or b""))
    assert scene.go(plan).left == 1
    report = prove(scene, plan)
    assert counted(report) == {"left": 1}
    assert report.proved


def test_an_outcome_that_no_reader_takes_is_left_and_no_fault(scene: Retagging) -> None:
    scene.outcome("a.png")
    document = scene.documents("a.png")[0]
    document["source"] |= {"key": "b.png", "last_modified": "noon"}
    document |= {"subject": "photos/b.png", "document_id": "photos/b.png"}
    scene.send(b"photos/b.png", orjson.dumps(document), V, scene.records("a.png")[0].headers[1:])
    plan = scene.plan()
    report = scene.go(plan)
    assert (report.planned, report.rescored, report.left, report.finished) == (2, 1, 1, True)
    assert counted(prove(scene, plan)) == {"outcome": 1, "left": 1}
