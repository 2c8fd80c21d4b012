"""Bucket notifications, as MinIO and AWS really write them, and in their envelopes."""

import json
from itertools import pairwise
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.image_event import MAX_RECORDS, BadEvent, Ignored, ImageEvent, Options, newer
from tests.unit.schemas.documents import AWKWARD, AWS, MINIO, event, fault, keys, notification, parse, patient

CREATED = [f"ObjectCreated:{cause}" for cause in ("Put", "Post", "Copy", "CompleteMultipartUpload")]
REMOVED = ["ObjectRemoved:Delete", "LifecycleExpiration:Delete"]
MARKED = [
    "ObjectRemoved:DeleteMarkerCreated",
    "ObjectRemoved:DeleteAllVersions",
    "LifecycleExpiration:DeleteMarkerCreated",
]
OTHERS = [
    "ObjectCreated:PutTagging",
    "ObjectCreated:DeleteTagging",
    "ObjectCreated:PutRetention",
    "ObjectCreated:PutLegalHold",
    "ObjectAccessed:Get",
    "ObjectAccessed:Head",
    "ObjectRemoved:NoOP",
    "ObjectTagging:Put",
    "ObjectRestore:Completed",
    "Replication:OperationFailedReplication",
    "LifecycleTransition",
    "LifecycleDelMarkerExpiration:Delete",
    "ReducedRedundancyLostObject",
    "",
]


def _minio() -> list[tuple[str, ImageEvent | Ignored | BadEvent]]:
    return [(record["record_key"], parse(record["value"])[0]) for record in MINIO]


def test_what_minio_sent_is_read_to_the_object_that_its_record_key_names() -> None:
    for record_key, entry in _minio():
        assert not isinstance(entry, BadEvent)
        assert entry.subject == record_key


def test_what_minio_sent_comes_to_four_kinds_of_outcome() -> None:
    kinds = [
        (entry.action, entry.versioned_removal) if isinstance(entry, ImageEvent) else "ignored" for _, entry in _minio()
    ]
    put, removed = ("enrich", False), ("retract", False)
    expected: list[object] = [put, put, *["ignored"] * 4, put, put, removed, removed, removed, put, put]
    assert kinds == [*expected, ("retract", True), removed]


def test_every_field_of_a_minio_put_is_read() -> None:
    assert event(MINIO[0]["value"]) == ImageEvent(
        id="18EB1FF02124DBCA",
        dialect="s3",
        action="enrich",
        index=0,
        bucket="photos",
        key="holiday/a b+c ü%20(1).jpg",
        version_id=None,
        etag="336311a016184326ddbdd61edd4eeb52",
        size=10,
        sequencer="18EB1FF02124DBCA",
        event_time="2026-11-24T23:46:32.646Z",
        options=Options(),
    )


def test_minio_counts_its_sequencers_in_the_order_of_the_events() -> None:
    puts_of_one_key = [event(record["value"]) for record in MINIO if record["record_key"] == "versioned/v.jpg"]
    sequencers = [put.sequencer or "" for put in puts_of_one_key]
    assert all(newer(later, earlier) for earlier, later in pairwise(sequencers))


def test_an_aws_put_is_read() -> None:
    read = event(AWS["put"])
    assert read.subject == "holiday-photos/2026/red flower (a+b) ü.jpg"
    assert (read.size, read.etag) == (1305107, "b21b84d653bb07b05b1e6b33684dc11b")


def test_every_record_of_a_message_is_an_event_of_its_own() -> None:
    entries = parse(AWS["three records"])
    assert [entry.index for entry in entries] == [0, 1, 2]
    assert [entry.action for entry in entries if isinstance(entry, ImageEvent)] == ["enrich", "enrich", "retract"]


@pytest.mark.parametrize("prefix", ["", "s3:"])
@pytest.mark.parametrize(
    ("names", "version", "expected"),
    [
        (CREATED, {"versionId": "v1"}, ("enrich", "v1", False)),
        (CREATED, {"versionId": "null"}, ("enrich", None, False)),
        (REMOVED + MARKED, {}, ("retract", None, False)),
        (REMOVED, {"versionId": "v1"}, ("retract", "v1", True)),
        (REMOVED, {"versionId": "null"}, ("retract", "null", True)),  # a newer version may live on
        (MARKED, {"versionId": "the-markers-own"}, ("retract", None, False)),
        (MARKED, {"versionId": "null"}, ("retract", None, False)),
    ],
)
def test_a_created_object_is_enriched_and_a_removed_one_or_its_version_retracted(
    prefix: str, names: list[str], version: dict[str, str], expected: tuple[str, str | None, bool]
) -> None:
    for name in names:
        read = event(notification(prefix + name, **version))
        assert (read.action, read.version_id, read.versioned_removal) == expected, name


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("prefix", ["", "s3:"])
def test_every_other_event_is_skipped_and_still_names_its_object(prefix: str, name: str) -> None:
    assert parse(notification(prefix + name)) == (Ignored(0, "event-type", "photos/a.jpg"),)


def test_an_event_of_another_kind_needs_no_object() -> None:
    document = notification("ObjectRestore:Post")
    del document["Records"][0]["s3"]
    assert parse(document) == (Ignored(0, "event-type", None),)


def test_a_test_event_is_skipped() -> None:
    assert parse(AWS["test event"]) == (Ignored(0, "test-event", None),)


@pytest.mark.parametrize("key", AWKWARD)
def test_an_awkward_key_survives_the_escaping(key: str) -> None:
    assert event(notification("ObjectCreated:Put", key=key)).key == key


@patient
@given(keys, st.sampled_from(["", "/"]))
@example("a/b c", "/")
def test_any_key_survives_the_escaping(key: str, unescaped: str) -> None:
    """MinIO escapes slashes, AWS does not."""
    if len(key.encode()) <= 1024:
        document = notification("ObjectCreated:Put")
        document["Records"][0]["s3"]["object"]["key"] = quote_plus(key, safe=unescaped)
        assert event(document).key == key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("eTag", value) for value in ("é", "a\n", "a b", "\x1b[2J", "a\0")),
        *(("versionId", value) for value in ("é", "a\n", "a b", "\x1b[2J", 7, "v" * 1025)),
        *(("key", value) for value in ("a%00b", "a\0b", "x" * 1025, "%C3%BC" * 513, "", "%80", "%ED%A0%80")),
    ],
)
def test_what_names_no_object_of_any_store_is_a_fault(field: str, value: Any) -> None:
    document = notification("ObjectCreated:Put")
    document["Records"][0]["s3"]["object"][field] = value
    bad = fault(document)
    assert bad.reason == "schema"
    assert bad.detail.startswith(f"s3.object.{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "many"),
        ("size", -1),
        ("size", 2**80),
        ("size", None),
        ("eTag", ""),
        ("eTag", 5),
        ("versionId", ""),
        ("versionId", None),
        ("sequencer", "not hex"),
        ("sequencer", {}),
    ],
)
def test_an_odd_optional_value_counts_as_absent(field: str, value: Any) -> None:
    read = event(notification("ObjectCreated:Put", **{field: value}))
    assert (read.size, read.etag, read.version_id, read.sequencer) == (None, None, None, None)


def test_an_odd_time_counts_as_absent() -> None:
    document = notification("ObjectCreated:Put")
    document["Records"][0]["eventTime"] = "24 Nov 2026"
    assert event(document).event_time is None


def test_without_a_sequencer_an_event_is_known_by_its_coordinates() -> None:
    assert event(notification("ObjectCreated:Put")).id == "images:3:17:0"


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (None, "a record is not an object"),
        ("text", "a record is not an object"),
        ({}, "eventName: Field required; s3: Field required"),
        ({"eventName": 5, "s3": 5}, "eventName: "),
        ({"eventName": "ObjectCreated:Put"}, "s3: Field required"),
        ({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "photos"}, "object": {}}}, "s3.object.key: "),
        ({"eventName": "ObjectCreated:Put", "s3": {"bucket": {}, "object": {"key": "k"}}}, "s3.bucket.name: "),
    ],
)
def test_a_bad_record_does_not_spoil_the_others(record: Any, detail: str) -> None:
    document = notification("ObjectCreated:Put", "ObjectCreated:Put")
    document["Records"].insert(1, record)
    first, bad, last = parse(document)
    assert isinstance(first, ImageEvent)
    assert isinstance(last, ImageEvent)
    assert isinstance(bad, BadEvent)
    assert (bad.index, bad.reason) == (1, "schema")
    assert bad.detail.startswith(detail)


def test_a_thousand_records_are_read_and_one_more_is_too_many() -> None:
    record = notification("ObjectCreated:Put")["Records"][0]
    assert len(parse({"Records": [record] * MAX_RECORDS})) == 1000
    bad = fault({"Records": [record] * (MAX_RECORDS + 1)})
    assert (bad.index, bad.reason) == (0, "too-many-records")


@pytest.mark.parametrize(("records", "reason"), [([], "not-an-event"), ({}, "schema"), (None, "schema"), (1, "schema")])
def test_records_that_are_no_records_are_a_fault(records: object, reason: str) -> None:
    bad = fault({"Records": records})
    assert (bad.index, bad.reason) == (0, reason)


def test_an_sns_envelope_is_unwrapped_whatever_it_holds() -> None:
    assert parse(AWS["sns"]) == parse(AWS["put"])
    for name in ("bridge created", "test event"):
        assert parse(AWS["sns"] | {"Message": json.dumps(AWS[name])}) == parse(AWS[name]), name


def test_an_sns_confirmation_is_for_a_person() -> None:
    assert fault(AWS["sns confirmation"]).reason == "not-an-event"


@pytest.mark.parametrize(
    ("message", "reason"), [(None, "schema"), ({}, "schema"), ("hello", "undecodable"), ("[]", "not-an-event")]
)
def test_an_sns_message_that_is_no_event_is_a_fault(message: object, reason: str) -> None:
    assert fault(AWS["sns"] | {"Message": message}).reason == reason


def test_eventbridge_does_not_escape_keys() -> None:
    read = event(AWS["bridge created"])
    assert (read.action, read.dialect, read.key) == ("enrich", "s3", "2026/red flower (a+b) ü.jpg")
    assert (read.version_id, read.etag, read.size, read.sequencer, read.event_time) == (
        "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
        "b1946ac92492d2347c6235b4d2611184",
        5,
        "617f08299329d189",
        "2026-03-04T05:06:07Z",
    )


@patient
@given(keys)
def test_any_key_comes_through_eventbridge(key: str) -> None:
    if len(key.encode()) <= 1024:
        detail = AWS["bridge created"]["detail"]
        document = AWS["bridge created"] | {"detail": detail | {"object": detail["object"] | {"key": key}}}
        assert event(document).key == key


def test_eventbridge_tells_a_removed_version_from_a_delete_marker() -> None:
    one, marker = event(AWS["bridge version removed"]), event(AWS["bridge delete marker"])
    assert (one.action, one.versioned_removal, one.version_id) == ("retract", True, "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e")
    assert (marker.action, marker.versioned_removal, marker.version_id) == ("retract", False, None)


def test_another_event_of_eventbridge_is_skipped() -> None:
    assert parse(AWS["bridge tags added"]) == (Ignored(0, "event-type", "holiday-photos/a.jpg"),)


def test_an_eventbridge_event_without_an_object_is_a_fault() -> None:
    bad = fault(AWS["bridge created"] | {"detail": {"bucket": {"name": "photos"}}})
    assert bad.reason == "schema"
    assert bad.detail.startswith("detail.object: ")


@given(st.integers(0, 2**80), st.integers(0, 2**80), st.integers(0, 6))
def test_sequencers_compare_as_numbers_whatever_their_width(one: int, other: int, zeros: int) -> None:
    assert newer("0" * zeros + f"{one:x}", f"{other:X}") == (one > other)
