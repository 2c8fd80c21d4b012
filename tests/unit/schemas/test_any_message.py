"""What holds for every message, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import Failure
from schemas.image_event import BadEvent, Ignored, ImageEvent
from schemas.text import Headers
from tests.unit.schemas.documents import AWS, MINIO, fault, json_values, notification, own, parse, patient

_CE_NAMES = ["content-type", "Content-Type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_dataref", "other"]
_CE_VALUES = [
    None,
    b"",
    b"1.0",
    b"\xff",
    b"application/json",
    b"application/cloudevents+json",
    b"application/cloudevents",
    b"image/png",
    b"s3://b/k",
]
any_headers = st.lists(st.tuples(st.sampled_from(_CE_NAMES), st.sampled_from(_CE_VALUES)), max_size=8).map(tuple)

_GOOD = [own(), notification("ObjectCreated:Put"), *AWS.values(), *(record["value"] for record in MINIO)]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document can be damaged."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for step, inner in steps for deeper in _paths(inner, (*path, step)))]


def _damaged(value: Any, path: tuple[Any, ...], put: Any) -> Any:
    if not path:
        return put
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _damaged(value[path[0]], path[1:], put)
    return copy


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A good document of some dialect with one value replaced."""
    good = draw(st.sampled_from(_GOOD))
    return _damaged(good, draw(st.sampled_from(_paths(good))), draw(json_values))


def _check(entries: tuple[ImageEvent | Ignored | BadEvent, ...]) -> None:
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert entries
    for entry in entries:
        if isinstance(entry, BadEvent):
            Failure(index=entry.index, stage="parse", reason=entry.reason, detail=entry.detail)
        elif isinstance(entry, ImageEvent):
            assert entry.bucket
            assert entry.key
            assert entry.subject.encode().startswith(f"{entry.bucket}/".encode())
            assert entry.id


@patient
@given(st.binary(max_size=200), any_headers)
def test_random_bytes_never_raise(value: bytes, headers: Headers) -> None:
    _check(parse(value, headers))


@patient
@given(json_values, any_headers)
def test_random_json_never_raises(value: Any, headers: Headers) -> None:
    _check(parse(json.dumps(value).encode(), headers))


@patient
@given(damaged(), any_headers)
def test_a_damaged_document_never_raises(value: Any, headers: Headers) -> None:
    _check(parse(json.dumps(value).encode(), headers))


@patient
@given(
    st.lists(
        st.sampled_from([record for good in _GOOD for record in good.get("Records", ())]) | json_values,
        min_size=1,
        max_size=6,
    )
)
def test_every_index_gets_exactly_one_entry(records: list[Any]) -> None:
    entries = parse({"Records": records})
    assert [entry.index for entry in entries] == list(range(len(records)))


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
def test_a_message_that_is_no_event_says_what_it_is(value: bytes | None, reason: str, detail: str) -> None:
    bad = fault(value)
    assert (bad.index, bad.reason) == (0, reason)
    assert bad.detail.startswith(detail)
