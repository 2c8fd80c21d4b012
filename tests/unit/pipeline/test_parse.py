"""Records that need no image, and the headers that each outcome inherits."""

import json
from typing import Any

from schemas.dead_letter import ONLY, Failure, input_key
from schemas.enriched_image import Retraction, Skip
from tests.support.harness import BUCKET, png
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import read
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.profiles import default_profiles
from workers.pipeline.stages.parse import EventFilter, Removed, Skipped, Wanted
from workers.rendition import Rendition
from workers.types import Assignment, Coordinates, Headers, Partition, Record, Unreadable

TRACE: Headers = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
RED = png((255, 0, 0))


def send_event(manual: ManualPipeline, value: Any, *, key: bytes | None = None, headers: Headers = ()) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    manual.send(body, key=key, headers=headers)
    manual.turn()


def notification(name: str, key: str, **more: str) -> dict[str, Any]:
    event = of_s3(key, f"s3:{name}")
    event["s3"]["object"] |= more
    return {"Records": [event | {"eventTime": "2026-01-02T03:04:05Z"}]}


def event(manual: ManualPipeline, key: str) -> dict[str, Any]:
    etag = manual.store.put(BUCKET, key, RED).etag
    return {"schema": "image-event/1", "id": key, "bucket": BUCKET, "key": key, "etag": etag}


def test_every_answer_takes_the_records_key_and_trace_along(manual: ManualPipeline) -> None:
    send_event(manual, event(manual, "red"), key=b"its key", headers=TRACE)
    send_event(manual, notification("ObjectRemoved:Delete", "gone"), key=b"its key", headers=TRACE)
    found = manual.messages()
    assert len(found) == 2
    for message in found:
        assert {*TRACE, *input_key(b"its key")} <= set(message.headers)


def test_what_needs_no_image_is_answered_without_one() -> None:
    manual = ManualPipeline()
    send_event(manual, b"no event")
    send_event(manual, notification("ObjectRemoved:Delete", "red", versionId="v1"))
    send_event(
        manual, notification("ObjectCreated:Put", "red"), headers=((ONLY, b"7"),)
    )  # a replay for another of its events
    outcomes = [read(outcome) for found in manual.done.values() for outcome in found]
    assert [type(outcome) for outcome in outcomes] == [Failure, Retraction, Skip]
    assert manual.reads == []
    assert not manual.in_flight


def test_events_of_renditions_are_skipped_also_of_their_removals() -> None:
    manual = ManualPipeline(rendition=Rendition.of("{bucket}/web/{key}", [BUCKET]))
    send_event(manual, event(manual, "web/red"))
    send_event(manual, notification("ObjectRemoved:Delete", "web/red"))
    send_event(manual, notification("ObjectRemoved:Delete", "web/red", versionId="v1"))
    outcomes = [read(outcome) for found in manual.done.values() for outcome in found]
    assert [(each.reason, each.subject) for each in outcomes if isinstance(each, Skip)] == [
        ("rendition", f"{BUCKET}/web/red")
    ] * 3
    assert manual.reads == []


FILTER = EventFilter(("photos",), ("*.jpg",), default_profiles(None))


def record_with(value: bytes, headers: Headers = (), unreadable: Unreadable | None = None) -> Record:
    partition = Partition("in", 2)
    return Record(partition, 7, 0, None, value, headers, Assignment(partition, "m"), unreadable=unreadable)


def of_s3(key: str, name: str = "ObjectCreated:Put", bucket: str = "photos") -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def message_of(*events: dict[str, Any]) -> bytes:
    return json.dumps({"Records": events}).encode()


def test_each_event_has_an_answer_in_its_place() -> None:
    value = message_of(
        of_s3("a.jpg"),
        of_s3("b.jpg", "ObjectRemoved:Delete"),
        of_s3("c.jpg", "ObjectTagging:Put"),
        of_s3("d.jpg", bucket="others"),
        of_s3("e.txt"),
    )
    wanted, removed, ignored, refused, unmatched = FILTER.read(record_with(value))
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


def test_a_sample_has_its_share_of_the_objects_with_all_their_events() -> None:
    tenth, half = (EventFilter(("photos",), ("*.jpg",), default_profiles(None), share) for share in (0.1, 0.5))
    value = message_of(*(of_s3(f"{number}.jpg") for number in range(1_000)))
    in_tenth, in_half = (
        {n for n, answer in enumerate(each.read(record_with(value))) if isinstance(answer, Wanted)}
        for each in (tenth, half)
    )
    assert 60 < len(in_tenth) < 140
    assert in_tenth < in_half
    gone = message_of(*(of_s3(f"{number}.jpg", "ObjectRemoved:Delete") for number in range(1_000)))
    answers = tenth.read(record_with(gone))
    assert {n for n, answer in enumerate(answers) if isinstance(answer, Removed)} == in_tenth
    assert {answer.reason for answer in answers if isinstance(answer, Skipped)} == {"not-sampled"}


def test_an_event_that_can_not_be_read_and_one_of_an_unknown_profile_are_refused() -> None:
    [bad] = FILTER.read(record_with(b"no event"))
    assert isinstance(bad, Failure)
    assert (bad.index, bad.stage, bad.reason) == (0, "parse", "undecodable")
    event = {"schema": "image-event/1", "id": "1", "bucket": "photos", "key": "a.jpg", "options": {"profile": "none"}}
    [unknown] = FILTER.read(record_with(json.dumps(event).encode()))
    assert isinstance(unknown, Failure)
    assert (unknown.index, unknown.stage, unknown.reason) == (0, "parse", "unknown-profile")
    assert "'none'" in unknown.detail


def test_a_replay_is_for_the_events_that_it_names() -> None:
    value = message_of(of_s3("a.jpg"), of_s3("b.jpg"), of_s3("c.jpg"))
    first, second, third = FILTER.read(record_with(value, ((ONLY, b"1"),)))
    assert first == third == Skipped("not-replayed")
    assert isinstance(second, Wanted)


def test_what_could_not_be_read_is_one_failure_whatever_its_bytes_say() -> None:
    unreadable = Unreadable("batch-too-large", "of 3 GB")
    [failure] = FILTER.read(record_with(message_of(of_s3("a.jpg"), of_s3("b.jpg")), unreadable=unreadable))
    assert failure == Failure(index=0, stage="parse", reason="batch-too-large", detail="of 3 GB")


def test_an_events_coordinates_say_where_it_stands() -> None:
    assert Entry(record_with(b""), 0.0).where(3) == Coordinates("in", 2, 7, 3)
