"""Which events of a record are worked on, and what becomes of the others, each under its own index."""

from __future__ import annotations

import json
from typing import Any

from schemas.dead_letter import ONLY, Failure
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.profiles import default_profiles
from workers.pipeline.stages.parse import EventFilter, Removed, Skipped, Wanted
from workers.types import Assignment, Coordinates, Headers, Partition, Record, Unreadable

FILTER = EventFilter(("photos",), ("*.jpg",), default_profiles(None))


def record(value: bytes, headers: Headers = (), unreadable: Unreadable | None = None) -> Record:
    partition = Partition("in", 2)
    return Record(partition, 7, 0, None, value, headers, Assignment(partition, "m"), unreadable=unreadable)


def of_s3(key: str, name: str = "ObjectCreated:Put", bucket: str = "photos") -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def notification(*events: dict[str, Any]) -> bytes:
    return json.dumps({"Records": events}).encode()


def test_each_event_has_an_answer_in_its_place() -> None:
    value = notification(
        of_s3("a.jpg"),
        of_s3("b.jpg", "ObjectRemoved:Delete"),
        of_s3("c.jpg", "ObjectTagging:Put"),
        of_s3("d.jpg", bucket="others"),
        of_s3("e.txt"),
    )
    wanted, removed, ignored, refused, unmatched = FILTER.read(record(value))
    assert isinstance(wanted, Wanted)
    assert (wanted.event.key, wanted.profile) == ("a.jpg", FILTER.profiles["default"])
    assert isinstance(removed, Removed)
    assert removed.event.key == "b.jpg"
    assert isinstance(ignored, Skipped)
    assert (ignored.reason, ignored.event, ignored.subject) == ("event-type", None, "photos/c.jpg")
    assert isinstance(refused, Failure)
    assert (refused.index, refused.stage, refused.reason) == (3, "parse", "bucket-not-allowed")
    assert isinstance(unmatched, Skipped)
    assert unmatched.reason == "key-not-matched"
    assert unmatched.event is not None
    assert unmatched.event.key == "e.txt"


def test_a_sample_takes_its_share_of_the_objects_and_all_that_happens_to_them() -> None:
    tenth, half = (EventFilter(("photos",), ("*.jpg",), default_profiles(None), share) for share in (0.1, 0.5))
    value = notification(*(of_s3(f"{number}.jpg") for number in range(1_000)))
    in_tenth, in_half = (
        {n for n, answer in enumerate(each.read(record(value))) if isinstance(answer, Wanted)} for each in (tenth, half)
    )
    assert 60 < len(in_tenth) < 140
    assert in_tenth < in_half
    gone = notification(*(of_s3(f"{number}.jpg", "ObjectRemoved:Delete") for number in range(1_000)))
    answers = tenth.read(record(gone))
    assert {n for n, answer in enumerate(answers) if isinstance(answer, Removed)} == in_tenth
    assert {answer.reason for answer in answers if isinstance(answer, Skipped)} == {"not-sampled"}


def test_an_event_that_can_not_be_read_and_one_of_an_unknown_profile_are_refused() -> None:
    [bad] = FILTER.read(record(b"no event"))
    assert isinstance(bad, Failure)
    assert (bad.index, bad.stage, bad.reason) == (0, "parse", "undecodable")
    event = {"schema": "image-event/1", "id": "1", "bucket": "photos", "key": "a.jpg", "options": {"profile": "none"}}
    [unknown] = FILTER.read(record(json.dumps(event).encode()))
    assert isinstance(unknown, Failure)
    assert (unknown.index, unknown.stage, unknown.reason) == (0, "parse", "unknown-profile")
    assert "'none'" in unknown.detail


def test_a_replay_is_for_the_events_that_it_names() -> None:
    value = notification(of_s3("a.jpg"), of_s3("b.jpg"), of_s3("c.jpg"))
    first, second, third = FILTER.read(record(value, ((ONLY, b"1"),)))
    assert first == third == Skipped("not-replayed")
    assert isinstance(second, Wanted)


def test_what_could_not_be_read_is_one_failure_whatever_its_bytes_say() -> None:
    unreadable = Unreadable("batch-too-large", "of 3 GB")
    [failure] = FILTER.read(record(notification(of_s3("a.jpg"), of_s3("b.jpg")), unreadable=unreadable))
    assert failure == Failure(index=0, stage="parse", reason="batch-too-large", detail="of 3 GB")


def test_an_events_coordinates_say_where_it_stands() -> None:
    assert Entry(record(b""), 0.0).where(3) == Coordinates("in", 2, 7, 3)
