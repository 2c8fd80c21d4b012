"""Rules for every message, whatever its content, and for malicious ones."""

import json
import re
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from pydantic import ValidationError

from schemas.dead_letter import DETAIL_MAX, Failure
from schemas.dialects import words
from schemas.dialects.words import COMMAS_MAX, CONTAINERS_MAX, EVENT_BYTES_MAX, MESSAGE_BYTES_MAX
from schemas.enriched_image import read_output
from schemas.image_event import BadEvent, ImageEvent
from schemas.text import Headers, first_fault
from tests.support.growth import LINEAR, growth
from tests.unit.schemas.documents import AWS, MINIO, fault, notification, own, parse


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (None, "undecodable", "the value is null (a tombstone)"),
        (b"", "undecodable", "the value is empty"),
        (b"hello", "undecodable", "not JSON in UTF-8: "),
        (
            "{}".encode("utf-16"),
            "undecodable",
            "not JSON in UTF-8: it begins with a byte order mark; write plain UTF-8",
        ),
        ("{}".encode("utf-8-sig"), "undecodable", "not JSON in UTF-8: it begins with a byte order mark"),
        ("{}".encode("utf-16-le"), "undecodable", "not JSON in UTF-8: "),
        (b'{"schema": "image-event/1", "key": "\xff"}', "undecodable", "not JSON in UTF-8: "),
        (b'{"schema": "image-event/1", "key": "\\ud800"}', "undecodable", "not JSON in UTF-8: "),
        (b'{"schema": NaN}', "undecodable", "not JSON in UTF-8: "),
        (b"[" * 30_000, "undecodable", "not JSON in UTF-8: "),
        (b"9" * 30_000, "undecodable", "not JSON in UTF-8: "),
        (b'\x00\x00\x00\x00\x07{"schema": "image-event/1"}', "undecodable", "begins with a null byte, "),
        (b"[]", "not-an-event", "a JSON array, not an object"),
        (b"null", "not-an-event", "a JSON null, not an object"),
        (b"true", "not-an-event", "a JSON boolean, not an object"),
        (b"1.5", "not-an-event", "a JSON number, not an object"),
        (b'"x"', "not-an-event", "a JSON string, not an object"),
        (b"{}", "not-an-event", "a JSON object, but "),
        (b'{"schema": 1}', "not-an-event", "a JSON object, but "),
        (b'{"detail-type": "Object Created", "source": "my.app"}', "not-an-event", "a JSON object, but "),
    ],
)
def test_a_message_that_is_no_event_says_its_fault(value: bytes | None, reason: str, detail: str) -> None:
    bad = fault(value)
    assert (bad.index, bad.reason) == (0, reason)
    assert bad.detail.startswith(detail)


MAKE: dict[str, tuple[str, Callable[[int], Any]]] = {
    "schema": ("a schema", lambda n: own(schema="image-event/" + "a." * (n // 2))),
    "schema list": ("no text", lambda n: own(schema=[["image-event/1"]] * (n // 19))),
    "sns type": ("SNS sent a", lambda n: {"TopicArn": "x", "Type": "a://" * (n // 4)}),
    "sns message": ("lists and objects", lambda n: {"TopicArn": "x", "Type": "Notification", "Message": "[" * n}),
    "key": ("at most 1024", lambda n: own(key="a" * n)),
    "escaped key": ("s3.object.key", lambda n: notification("ObjectCreated:Put", key="/" * (n // 3))),
    "spaces": ("not JSON", lambda n: b" " * n),
    "nesting": ("recursion limit", lambda n: b'{"a":' * (n // 5)),
    "nested schema": ("recursion limit", lambda n: b'{"schema":' * (n // 10)),
    "digits": ("number out of range", lambda n: b'{"size":' + b"9" * n + b"}"),
    "fraction": ("neither", lambda n: b'{"size":1.' + b"9" * n + b"}"),
    "exponent": ("neither", lambda n: b'{"size":1e' + b"9" * n + b"}"),
    "empty lists": ("lists and objects", lambda n: b'{"a":[' + b"[]," * (n // 3) + b"[]]}"),
    "long numbers": ("neither", lambda n: {"a": [int("9" * 4_000)] * (n // 4_000)}),
    "members": ("neither", lambda n: {f"{number:x}": 1 for number in range(n // 10)}),
    "equal members": ("neither", lambda n: b"{" + b'"a":1,' * (n // 6) + b'"a":2}'),
    "records": ("at most 1,000", lambda n: b'{"Records":[' + b'{"a":1},' * (n // 8) + b"{}]}"),
    "wishes": ("at most 16", lambda n: own(options={"want": ["x"] * (n // 5)})),
    "guides of another type": ("options.guide_tags.0", lambda n: own(options={"guide_tags": [1] * (n // 3)})),
    "guides": ("at most 50", lambda n: own(options={"guide_tags": ["a"] * (n // 5)})),
    "version": ("version_id", lambda n: own(version_id="a" * n)),
    "profile": ("options.profile", lambda n: own(etag='"' + "a" * (n // 2), options={"profile": "a" * (n // 2)})),
    "surrogate": ("not JSON", lambda n: b'{"key":"' + b"a" * n + b'\\ud800"}'),
    "wide characters": ("not JSON", lambda n: '{"key":"k"}'.encode("utf-16") * (n // 24)),
    "byte order mark": ("not JSON", lambda n: b"\xef\xbb\xbf" + json.dumps(own(id="a" * n)).encode()),
    "not a number": ("not JSON", lambda n: b'{"a":"' + b"a" * n + b'","b":NaN}'),
    "base64": ("not base64", lambda n: {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
               | {"data_base64": "a" * n + "!"}),
    "dataref": ("dataref", lambda n: {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
                | {"dataref": "s3://b" + "/k" * (n // 2) + "#"}),
    "escaped dataref": ("dataref is", lambda n: {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
                        | {"dataref": "s3://bucket/" + "%" * n}),
}  # fmt: skip
"""By name: the fault's text, and a message of about this many bytes."""


def message(name: str, size: int) -> bytes:
    made = MAKE[name][1](size)
    return made if isinstance(made, bytes) else json.dumps(made, separators=(",", ":")).encode()


@pytest.fixture
def long_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may be as long as if the name of S3's list stood in it somewhere."""
    monkeypatch.setattr(words, "EVENT_BYTES_MAX", MESSAGE_BYTES_MAX)


@pytest.mark.usefixtures("long_events")
@pytest.mark.parametrize("name", MAKE)
def test_a_hostile_message_is_one_fault_that_says_why(name: str) -> None:
    bad = fault(message(name, 200_000))
    assert bad.reason in ("undecodable", "not-an-event", "schema", "too-many-records")
    assert len(bad.detail) < 1_000
    failure = Failure(index=0, stage="parse", reason=bad.reason, detail=bad.detail)
    assert MAKE[name][0] in failure.detail or MAKE[name][0] in ("a schema", "no text")
    assert len(failure.detail) <= DETAIL_MAX


@pytest.mark.usefixtures("long_events")
@pytest.mark.parametrize("name", MAKE)
def test_a_message_of_twice_the_size_takes_twice_as_long_at_most_three_times(name: str) -> None:
    # A quarter of a megabyte: the cost of a million small objects depends on the processor's caches too.
    half, whole = message(name, 125_000), message(name, 250_000)
    assert growth(lambda: parse(half), lambda: parse(whole)) < LINEAR


@pytest.mark.slow
@pytest.mark.usefixtures("long_events")
@pytest.mark.parametrize("name", MAKE)
def test_a_message_takes_at_most_thirty_times_its_size_in_memory(name: str) -> None:
    value = message(name, 300_000)
    tracemalloc.start()
    parse(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(value)


CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def sns(message: str) -> bytes:
    return json.dumps({"TopicArn": "arn:x", "Type": "Notification", "Message": message}).encode()


def base64_of(message: bytes) -> bytes:
    return json.dumps({**CLOUD_EVENT, "data_base64": b64encode(message).decode()}).encode()


def event_of(size: int) -> bytes:
    value = json.dumps(own(more="")).encode()
    return value.replace(b'"more": ""', b'"more": "%b"' % (b"x" * (size - len(value))))


@pytest.mark.parametrize(
    ("most", "make"),
    [
        (EVENT_BYTES_MAX, event_of),
        (MESSAGE_BYTES_MAX, lambda size: event_of(size).replace(b'"xxxxxxx', b'"Records')),
        (MESSAGE_BYTES_MAX, lambda size: event_of(size).replace(b'"xxxxxxxxxxx', b'"data_base64')),
    ],
)
def test_a_message_may_be_64_kib_long_or_4_mib_where_it_may_hold_a_list(
    most: int, make: Callable[[int], bytes]
) -> None:
    assert not isinstance(parse(make(most))[0], BadEvent)
    bad = fault(make(most + 1))
    assert bad.reason == "undecodable"
    assert bad.detail.startswith(f"{most + 1:,} bytes of JSON; at most {most:,} are read")


@pytest.mark.parametrize("around", [lambda inner: inner, base64_of, lambda inner: sns(inner.decode())])
def test_a_wrapped_event_has_the_same_limits(around: Callable[[bytes], bytes]) -> None:
    long = around(event_of(EVENT_BYTES_MAX + 1))
    assert f"at most {EVENT_BYTES_MAX:,} " in fault(long).detail
    crowded = around(b'{"Records":[' + b"[]," * CONTAINERS_MAX + b"[]]}")
    assert re.match(r"50,00\d lists and objects; at most 50,000 ", fault(crowded).detail)


@pytest.mark.parametrize("one", [b"[]", b"{}", b'{"a":[]}'])
def test_more_lists_and_objects_than_an_honest_message_has_are_not_made(
    one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: 1.4 million of them hold the interpreter's lock for most of a second, and are 500 bytes on the wire."""
    read: list[int] = []
    monkeypatch.setattr(words, "from_json", lambda data, **_: read.append(len(data)))
    lists = (MESSAGE_BYTES_MAX - 100) // (len(one) + 1)
    for before in (b'{"schema":"image-event/1","x":[', b'{"Records":['):
        bad = fault(before + (one + b",") * lists + b"0]}")
        assert bad.reason == "undecodable"
        assert re.search("at most (50,000|65,536) are read", bad.detail)
    many = b'{"Records":[],' + b",".join(b'"%x":0' % number for number in range(COMMAS_MAX + 1)) + b"}"
    assert fault(many).detail == f"{COMMAS_MAX + 1:,} commas; at most 100,000 are read"
    assert not read


def aws(count: int, key: str) -> dict[str, Any]:
    known = [one for each in (*AWS.values(), *(each["value"] for each in MINIO)) for one in each.get("Records", [])]
    record = max(known, key=lambda one: len(json.dumps(one)))
    record = {**record, "s3": {**record["s3"], "object": {**record["s3"]["object"], "key": quote_plus(key)}}}
    return {"Records": [record] * count}


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda inner: inner, lambda inner: sns(inner.decode())])
@pytest.mark.parametrize("key", ["\x01" * 1_024, "[{" * 512])
def test_a_thousand_records_with_the_longest_keys_are_not_too_large(key: str, around: Callable[[bytes], bytes]) -> None:
    value = json.dumps(notification(*["ObjectCreated:Put"] * 1_000, key=key), separators=(",", ":")).encode()
    entries = parse(around(value))
    assert len(entries) == 1_000
    assert not any(isinstance(entry, BadEvent) for entry in entries)


def test_a_thousand_records_have_a_third_of_the_lists_and_objects_that_are_read() -> None:
    value = json.dumps(aws(1_000, "photos/a.jpg")).encode()
    assert len(parse(sns(value.decode()))) == 1_000
    assert 8_000 < value.count(b"{") + value.count(b"[") < CONTAINERS_MAX / 3
    assert 20_000 < value.count(b",") < COMMAS_MAX / 3


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_longest_event_that_the_schema_allows_is_read(ascii_only: bool) -> None:
    """However it is written; escaped characters beyond U+FFFF alone would take 82 kB."""
    character = "\u65e5"
    wide = own(
        id=character * 256, bucket="b" * 63, key=character * 341, version_id="v" * 1_024, etag="e" * 256,
        sequencer="F" * 128, size=2**63 - 1, event_time="2026-01-02T03:04:05.123456789+01:00",
        options={"want": ["embedding"] * 16, "guide_tags": [character * 100] * 50, "profile": character * 256},
    )  # fmt: skip
    value = json.dumps(wide, ensure_ascii=ascii_only, indent=4).encode()
    assert isinstance(parse(value)[0], ImageEvent)
    assert len(value) < EVENT_BYTES_MAX


@pytest.mark.parametrize("part", ["ce_id", "ce_time", "ce_dataref", "content-type", "ce_specversion", "ce_other"])
def test_long_headers_take_linear_time(part: str) -> None:
    def headers(size: int) -> Headers:
        named = {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t"}
        return tuple((named | {part: b"s3://b/" + b"k?/" * (size // 3)}).items())

    half, whole = headers(500_000), headers(1_000_000)
    assert growth(lambda: parse(None, half), lambda: parse(None, whole)) < LINEAR


@pytest.mark.parametrize("schema", [b'"' + b"x" * 100_000 + b'"', b"9" * 4000, b"null"])
def test_an_output_of_another_schema_is_refused_without_repeating_its_text(schema: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        read_output(b'{"schema":' + schema + b"}")
    assert first_fault(caught.value) == "its `schema` is none that is known"


LISTS = b"[" + b"1," * 100_000 + b"1]"


@pytest.mark.parametrize("field", [b'"tags":', b'"caption":{"text":"t","method":"m","guided_by":'])
def test_an_output_with_very_many_faults_is_refused_at_the_first(field: bytes) -> None:
    value = b'{"schema":"enriched-image/1",' + field + LISTS + b"}" * (2 if b"caption" in field else 1)
    tracemalloc.start()
    with pytest.raises(ValidationError) as caught:
        read_output(value)
    assert len(first_fault(caught.value)) < 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(value)  # each missing field's error holds the document once
    assert caught.value.error_count() < 20
