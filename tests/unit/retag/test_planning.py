"""The newest outcome of each subject, for any order of records."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.correction import Word
from schemas.enriched_image import version_key
from schemas.version import VERSION_HEADER
from tagstream_testing.memory import ManualClock, MemoryCorrections
from tests.unit.retag.stored import outcome, retraction, today
from workers.pipeline.published import StoredOutcome
from workers.retag.changes import ChangesWriter, LabelNumbers, Numbering, PlannedChanges, read_changes
from workers.retag.plan_file import Planned
from workers.retag.planning import Found, Kind, Newest, OutcomeChoice, Planning
from workers.retag.remake import New, Remaker
from workers.retag.report import PlanReport
from workers.types import ReadRecord

SCORES = {"red": 0.9, "green": 0.6, "blue": 0.4}
V = 1_700_000_000_000_000
ALL = OutcomeChoice()


def never(*_: Any) -> Any:
    raise AssertionError


class Topic:
    def __init__(self, folder: Path) -> None:
        self.then, self.now = today(folder, thresholds=0.5), today(folder, thresholds=0.3)
        self.records: list[ReadRecord] = []

    def outcome(self, key: str, version: int | None = V, *, changed: bool = True, place: int = 0, **more: Any) -> None:
        scores = SCORES if changed else {"red": 0.9, "green": 0.2}
        changes = more.pop("changes", {})
        document, headers = outcome(self.then, scores, key=key, **more)
        document["version"] = version
        for path, value in changes.items():
            document[path] = {**document[path], **value} if isinstance(value, dict) else value
        self.add(place, document["subject"].encode(), orjson.dumps(document), headers)

    def retraction(self, key: str, version: int | None = V, *, version_id: str | None = None, place: int = 0) -> None:
        gone = retraction(key, version, version_id)
        self.add(place, gone.message_key, gone.to_bytes())

    def add(self, place: int, key: bytes | None, value: bytes | None, headers: Any = ()) -> None:
        at = sum(each.partition == place for each in self.records)
        self.records.append(ReadRecord("enriched", place, at, 1000 * len(self.records), key, value, headers))

    def plan(
        self,
        choice: OutcomeChoice = ALL,
        records: Iterable[ReadRecord] | None = None,
        changes: PlannedChanges | None = None,
    ) -> tuple[Found, list[Planned]]:
        with Newest() as newest:
            reading = Planning(Remaker(self.now, MemoryCorrections(), ManualClock()), newest, choice, changes)
            for record in self.records if records is None else records:
                reading.take(record)
            found = newest.settle()
            return found, list(newest.planned() if changes is None else changes.seen(newest.planned()))

    def fates(self, choice: OutcomeChoice = ALL) -> dict[str, int]:
        found, _ = self.plan(choice)
        fates = {kind.fate: count for kind, count in found.counts.items()}
        return fates | ({"gone": found.gone} if found.gone else {})


@pytest.fixture
def topic(tmp_path: Path) -> Topic:
    return Topic(tmp_path)


def test_of_each_subject_the_largest_version_counts_wherever_it_stands(topic: Topic) -> None:
    topic.outcome("a.png", V + 2)
    topic.outcome("b.png", V)
    topic.outcome("a.png", V + 1, changed=False)
    topic.outcome("b.png", V + 5, changed=False)
    found, planned = topic.plan()
    assert [(each.offset, each.subject, each.version) for each in planned] == [(0, "photos/a.png", V + 2)]
    assert (planned[0].verdict, planned[0].reason, planned[0].bytes) == ("rescore", "tags,caption", 1000)
    assert {kind.fate: count for kind, count in found.counts.items()} == {"rescore": 1, "unchanged": 1}


def test_the_order_of_records_changes_nothing(topic: Topic) -> None:
    topic.outcome("a.png", V)
    topic.outcome("a.png", V + 1, changed=False)
    topic.retraction("a.png", V + 2)
    topic.outcome("a.png", V + 3)
    answers = {str(topic.plan(records=order)[1]) for order in itertools.permutations(topic.records)}
    assert len(answers) == 1
    assert "offset=3" in answers.pop()


def test_equal_versions_are_ordered_by_when_they_were_made_and_then_by_offset(topic: Topic) -> None:
    topic.outcome("a.png", changes={"produced_at": "2026-01-01T00:00:02Z"})
    topic.outcome("a.png", changes={"produced_at": "2026-01-01T00:00:01Z"}, changed=False)
    topic.outcome("b.png", changed=False)
    topic.outcome("b.png")
    assert [each.offset for each in topic.plan()[1]] == [0, 3]


def test_an_outcome_without_a_version_is_of_when_its_object_was_modified(topic: Topic) -> None:
    topic.outcome("a.png", None)
    topic.outcome("a.png", 1, changed=False)
    assert [(each.offset, each.version) for each in topic.plan()[1]] == [(0, 1_767_225_600_000_000)]


def test_a_retracted_subject_is_gone_until_a_newer_outcome(topic: Topic) -> None:
    for key in ("a.png", "b.png", "c.png"):
        topic.outcome(key, V)
        topic.retraction(key, V + 1)
    topic.outcome("b.png", V + 2)
    topic.outcome("c.png", V - 1)
    assert topic.fates() == {"rescore": 1, "gone": 2}


def test_a_removed_version_takes_its_own_outcome_and_no_other(topic: Topic) -> None:
    topic.outcome("a.png", V, changes={"source": {"version_id": "one"}})
    topic.outcome("b.png", V, changes={"source": {"version_id": "two"}})
    topic.outcome("c.png", V)
    for key in ("a.png", "b.png", "c.png", "unknown.png"):
        topic.retraction(key, V + 9, version_id="one", place=1)
    found, planned = topic.plan()
    assert [each.subject for each in planned] == ["photos/b.png", "photos/c.png"]
    assert found.gone == 1


def test_a_record_without_a_value_withdraws_earlier_outcomes(topic: Topic) -> None:
    topic.outcome("a.png")
    topic.add(0, b"photos/a.png", None)
    topic.add(0, b"photos/b.png", None)
    topic.outcome("b.png")
    topic.outcome("c.png", V)
    topic.add(0, b"photos/c.png", None, ((VERSION_HEADER, b"%d" % (V - 1)),))
    topic.outcome("d.png", V, changes={"source": {"version_id": "v/1"}})
    topic.add(1, version_key("photos", "d.png", "v/1"), None)
    topic.outcome("e.png", V)
    topic.add(0, b"photos/e.png", None, ((VERSION_HEADER, b"%d" % (V + 1)),))
    _, planned = topic.plan()
    assert [each.subject for each in planned] == ["photos/b.png", "photos/c.png", "photos/d.png"]


def test_a_plan_is_in_order_of_partition_and_offset(topic: Topic) -> None:
    for number in range(60):
        topic.outcome(f"{number * 7 % 60}.png", place=number % 3)
    _, planned = topic.plan()
    assert [each[:2] for each in planned] == [(place, at) for place in range(3) for at in range(20)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "empty document"),
        (b"{", "unexpected end"),
        (b"[]", "JSON object"),
        (b"{}", "no outcome"),
        (b'{"schema":"other/1"}', "no outcome"),
        (b'{"schema":"enriched-image/1"}', "shape"),
    ],
)
def test_an_invalid_outcome_is_refused(topic: Topic, value: bytes, says: str) -> None:
    topic.add(0, b"k", value)
    with pytest.raises(ValueError, match=says):
        topic.plan()


def test_a_version_that_is_no_whole_number_is_refused(topic: Topic) -> None:
    topic.outcome("a.png", "5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="version"):
        topic.plan()


@pytest.mark.parametrize("size", ["many", 2**63, -1, 1.5, None, True])
def test_a_size_that_is_no_number_of_bytes_is_refused(topic: Topic, size: Any) -> None:
    topic.outcome("a.png", changed=False, changes={"image": {"bytes": size}})
    with pytest.raises(ValueError, match="no number of bytes"):
        topic.plan()


@pytest.mark.parametrize("version_id", [{}, ["v1"], 7, 2**63])
def test_a_version_id_that_is_no_text_ends_no_plan(topic: Topic, version_id: Any) -> None:
    topic.outcome("a.png", changed=False, changes={"source": {"version_id": version_id}})
    topic.retraction("b.png", version_id="v1")
    topic.outcome("b.png")
    assert len(topic.plan()[1]) == 1


def test_filters_leave_out_the_other_outcomes(topic: Topic) -> None:
    topic.outcome("2024/a.png")
    topic.outcome("2025/b.png", stored=False)
    topic.outcome("2025/c.png", profile="default")
    for choice, taken in (
        (OutcomeChoice(prefix="photos/2025/"), 2),
        (OutcomeChoice(tagger="aaaa"), 3),
        (OutcomeChoice(tagger="b"), 0),
        (OutcomeChoice(tags=frozenset({"green", "teal"})), 3),
        (OutcomeChoice(tags=frozenset({"teal"})), 0),
        (OutcomeChoice(since_ms=1000), 2),
        (OutcomeChoice(reasons=frozenset({"no-scores"})), 1),
        (OutcomeChoice(reasons=frozenset({"caption"})), 2),
    ):
        found, planned = topic.plan(choice)
        assert len(planned) == taken, choice
        assert sum(found.counts.values()) == 3


def test_a_reason_takes_the_images_that_lack_a_result_for_it(topic: Topic) -> None:
    reasons = ("caption-unavailable", "annotate-failed", "caption-budget")
    away, _, budget = ({"want": "caption", "reason": reason} for reason in reasons)
    for key, reason, missing in (("a", 0, None), ("b", 1, [away]), ("c", 2, [budget])):
        topic.outcome(key, changes={"status": "partial", "reason": reasons[reason], "missing": missing})
    topic.outcome("d")
    _, planned = topic.plan(OutcomeChoice(reasons=frozenset({"caption-unavailable"})))
    assert [each.subject for each in planned] == ["photos/a", "photos/b"]
    assert {(each.verdict, each.reason) for each in planned} == {("image", "partial")}
    assert topic.fates(OutcomeChoice(reasons=frozenset({"annotate-failed", "caption-budget"})))["image"] == 2


def test_a_subject_with_a_left_out_newest_outcome_is_not_planned_by_an_older_one(topic: Topic) -> None:
    topic.outcome("a.png", V)
    topic.outcome("a.png", V + 1, changed=False, word=Word(("teal",), ()))
    assert topic.fates(OutcomeChoice(tags=frozenset({"red"}))) == {"rescore": 1}
    assert topic.fates(OutcomeChoice(tags=frozenset({"green"}))) == {"filtered": 1}


def test_all_planned_changes_are_written_and_no_others(topic: Topic, tmp_path: Path) -> None:
    for number in range(30):
        topic.outcome(f"{number}.png", V, place=number % 3)
    topic.outcome("0.png", V + 1, changed=False)
    topic.outcome("needs.png", stored=False)
    with ChangesWriter() as writer:
        _, planned = topic.plan(changes=PlannedChanges(writer, Numbering(topic.now)))
        writer.write(tmp_path / "changes", before="a", after="b", images=31)
    changed = list(read_changes(tmp_path / "changes")[1])
    assert {each.subject for each in changed} == {each.subject for each in planned if each.verdict == "rescore"}
    assert len(changed) == 29
    assert {(*each.kept, "|", *each.lost, "|", *each.gained) for each in changed} == {
        ("red", "green", "|", "|", "blue")
    }
    assert all(each.captions is not None for each in changed)


def numbers(topic: Topic, path: Path) -> dict[str, LabelNumbers]:
    """Of the only changed image."""
    with ChangesWriter() as writer:
        topic.plan(changes=PlannedChanges(writer, Numbering(topic.now)))
        writer.write(path, before="a", after="b", images=1)
    (changed,) = read_changes(path)[1]
    return dict(changed.numbers)


def test_changed_labels_have_their_scores_and_thresholds(topic: Topic, tmp_path: Path) -> None:
    topic.outcome("a.png")
    assert numbers(topic, tmp_path / "unknown")["blue"] == (0.4, 0.4, None, 0.3)
    topic.now = today(tmp_path, thresholds=0.5, profiles={"default": {"all": 0.3, "labels": {"red": 0.95}}})
    found = numbers(topic, tmp_path / "known")
    assert found["blue"] == (0.4, 0.4, 0.5, 0.3), "the tagger's own thresholds were those before"
    assert found["red"] == (0.9, 0.9, 0.5, 0.95), "a lost label has a new score too"
    assert found["green"] == (0.6, 0.6, 0.5, 0.3)


def test_numbers_that_no_outcome_has_are_unknown(topic: Topic, tmp_path: Path) -> None:
    tagger = {"name": "old", "digest": "e" * 64, "precision": "fp32", "random_weights": False}
    tags = [
        {"name": name, "score": score, "label_id": 0} for name, score in (("red", 7.0), ("green", "0.5"), ("sky", 1))
    ]
    topic.outcome("a.png", changes={"tags": tags, "models": {"tagger": tagger, "captioner": None}, "options": None})
    fields = orjson.loads(topic.records[0].value or b"")
    new = New(
        ("tags",), StoredOutcome(fields, ()), {"tags": [], "corrections": {"added": ["blue"], "removed": []}}, never
    )
    topic.now = today(tmp_path, thresholds=0.5, profiles={"default": {"all": 0.3}})
    told = Numbering(topic.now).of(new)
    assert told("red") == told("green") == (None, None, None, 0.3)
    assert told("sky") is None
    assert told("blue") is None, "a person's word has no score"


@pytest.mark.parametrize(("images", "size", "told"), [(4, 5_000, "0.02 MB"), (120_000, 100_000, "12.00 GB")])
def test_the_bytes_to_fetch_are_told(images: int, size: int, told: str) -> None:
    kind = Kind("image", "no-scores")
    found = Found(Counter({kind: images}), Counter({kind: images * size}))
    *_, line = PlanReport("enriched", 1, True, images, 0, found).lines()
    assert line == f"to fetch: {told}"
