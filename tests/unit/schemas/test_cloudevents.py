"""CloudEvents around the other dialects, in both content modes of the Kafka binding."""

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given

from schemas.image_event import BadEvent, Ignored, ImageEvent
from schemas.text import Headers
from tests.unit.schemas.documents import AWS, event, fault, keys, notification, own, parse, patient

ATTRIBUTES = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "/uploads",
    "type": "com.example.image.stored",
    "time": "2026-02-03T04:05:06Z",
}
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def binary(content_type: str | None = "application/json", **attributes: str | None) -> Headers:
    """`ce_*` headers; an attribute of None is left out."""
    named = {f"ce_{name}": value for name, value in (ATTRIBUTES | attributes).items()}
    named["content-type"] = content_type
    return tuple((name, value.encode()) for name, value in named.items() if value is not None)


def structured(**fields: Any) -> dict[str, Any]:
    return ATTRIBUTES | fields


def test_an_event_in_binary_mode_is_read() -> None:
    read = event(own(event_time="2026-01-01T00:00:00Z"), binary())
    assert (read.dialect, read.id, read.subject) == ("cloudevents", "evt-1", "photos/a.jpg")
    assert read.event_time == "2026-01-01T00:00:00Z"


def test_an_event_in_structured_mode_is_read() -> None:
    read = event(structured(datacontenttype="application/json", data=own()), STRUCTURED)
    assert (read.dialect, read.id, read.subject) == ("cloudevents", "evt-1", "photos/a.jpg")


ENCODED = base64.b64encode(json.dumps(own()).encode()).decode()


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        pytest.param(structured(data=own()), STRUCTURED, id="structured mode"),
        pytest.param(structured(data=own()), (), id="structured mode whose header got lost"),
        pytest.param(structured(data=own()), (*binary(None), *STRUCTURED), id="structured mode with headers of both"),
        pytest.param(structured(data=own()), (("Content-Type", STRUCTURED[0][1]),), id="a header in capitals"),
        pytest.param(own(), tuple((name.title(), value) for name, value in binary()), id="headers in capitals"),
        pytest.param(structured(data=json.dumps(own())), STRUCTURED, id="data as text"),
        pytest.param(structured(data_base64=ENCODED), STRUCTURED, id="base64"),
        pytest.param(own(), binary(content_type=None), id="no content type"),
        pytest.param(own(), binary("application/vnd.photos+json; charset=utf-8"), id="a content type of JSON"),
    ],
)
def test_all_forms_of_an_event_read_alike(value: dict[str, Any], headers: Headers) -> None:
    assert parse(value, headers) == parse(own(), binary())


def test_the_envelope_tells_the_time_where_the_event_does_not() -> None:
    assert event(own(), binary()).event_time == "2026-02-03T04:05:06Z"
    assert event(own(), binary(time="some day")).event_time is None
    assert event(own(), binary(time=None)).event_time is None


def test_a_notification_inside_a_cloudevent_keeps_its_records() -> None:
    entries = parse(structured(data=notification("ObjectCreated:Put", "ObjectAccessed:Get", "ObjectRemoved:Delete")))
    assert [entry.index for entry in entries] == [0, 1, 2]
    assert [type(entry) for entry in entries] == [ImageEvent, Ignored, ImageEvent]
    first = entries[0]
    assert isinstance(first, ImageEvent)
    assert (first.dialect, first.id) == ("cloudevents", "images:3:17:0")


def test_envelopes_inside_a_cloudevent_are_unwrapped() -> None:
    assert event(AWS["sns"], binary()).subject == "holiday-photos/2026/red flower (a+b) ü.jpg"
    assert event(AWS["bridge created"], binary()).dialect == "cloudevents"


def test_dataref_names_the_image_itself() -> None:
    read = parse(None, binary(content_type=None, dataref="s3://photos/red%20flower+1.jpg"))
    assert read == (
        ImageEvent(
            id="ce-1",
            dialect="cloudevents",
            action="enrich",
            index=0,
            bucket="photos",
            key="red flower+1.jpg",
            event_time="2026-02-03T04:05:06Z",
        ),
    )


def test_dataref_may_name_a_version() -> None:
    read = event(structured(dataref="s3://photos/a.jpg?versionId=v%2F1"))
    assert (read.key, read.version_id) == ("a.jpg", "v/1")
    assert event(structured(dataref="s3://photos/a.jpg?versionId=null")).version_id is None


@patient
@given(keys)
def test_any_key_comes_through_dataref(key: str) -> None:
    if len(key.encode()) <= 1024:
        assert event(structured(dataref=f"s3://photos/{quote(key)}")).key == key


def test_data_is_read_before_dataref() -> None:
    assert event(structured(data=own(), dataref="s3://other/b.jpg")).subject == "photos/a.jpg"


def test_an_image_that_travels_along_is_read_from_where_dataref_says() -> None:
    headers = binary(content_type="image/jpeg", dataref="s3://photos/a.jpg")
    (entry,) = parse(b"\xff\xd8\xff\xe0", headers)
    assert isinstance(entry, ImageEvent)
    assert entry.subject == "photos/a.jpg"


@pytest.mark.parametrize(
    "uri",
    [
        "https://photos.s3.amazonaws.com/a.jpg",
        "/a.jpg",
        "s3://photos",
        "s3://photos/",
        "s3:///a.jpg",
        "s3://photos/a.jpg#part",
        "s3://photos/a.jpg?X-Amz-Signature=secret",
        "s3://photos/a.jpg?versionId=",
        "s3://photos/caf%E9.jpg",
        "s3://photos/a%00b.jpg",
        "s3://photos/a.jpg?versionId=v%201",
        "s3://photos/a.jpg?versionId=%0A",
        "s3://ph%6f/a.jpg%FF",
        "s3://photos/" + "x" * 1025,
    ],
)
def test_a_dataref_that_is_no_object_is_a_fault_that_does_not_repeat_it(uri: str) -> None:
    bad = fault(structured(dataref=uri))
    assert (bad.index, bad.reason) == (0, "schema")
    assert "secret" not in bad.detail


@pytest.mark.parametrize("attribute", ["id", "source", "type"])
def test_a_missing_attribute_is_named(attribute: str) -> None:
    document = structured(data=own())
    del document[attribute]
    assert fault(document).detail == f"{attribute}: Field required"
    assert fault(own(), binary(**{attribute: None})).detail == f"{attribute}: Field required"


def test_another_specversion_is_a_fault() -> None:
    assert fault(structured(specversion="0.3", data=own())).detail.startswith("specversion: ")


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (structured(), STRUCTURED, "not-an-event"),
        (structured(data=[1]), STRUCTURED, "not-an-event"),
        (structured(data={"a": 1}), STRUCTURED, "not-an-event"),
        (structured(data="<image/>"), STRUCTURED, "undecodable"),
        (structured(data_base64="***"), STRUCTURED, "undecodable"),
        (structured(data_base64=5), STRUCTURED, "undecodable"),
        (structured(data=structured(data=own())), STRUCTURED, "not-an-event"),
        (b"\x01\x02", (("content-type", b"application/cloudevents+avro"),), "not-an-event"),
        (b"not json", STRUCTURED, "undecodable"),
        (None, STRUCTURED, "undecodable"),
        (b"not json", binary(), "undecodable"),
        (b"\xff\xd8\xff\xe0", binary(content_type="image/jpeg"), "not-an-event"),
        (None, binary(), "not-an-event"),
    ],
)
def test_an_envelope_without_an_event_is_a_fault(value: Any, headers: Headers, reason: str) -> None:
    bad = fault(value, headers)
    assert isinstance(bad, BadEvent)
    assert (bad.index, bad.reason) == (0, reason)
