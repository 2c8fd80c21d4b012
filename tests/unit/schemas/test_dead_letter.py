"""The headers of dead letters."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.dead_letter import (
    CUSTOMARY,
    DETAIL_MAX,
    DETAILED_FAILURES,
    REASONS,
    STAGES,
    Failure,
    bytes_in_keys,
    dead_letter_headers,
    only_indexes,
    read_dead_letter_headers,
    replay,
    strip_own_headers,
    with_nulls,
    without_nulls,
)
from schemas.options import WANTS
from schemas.text import Headers
from tests.unit.schemas.documents import patient

FAILURE = Failure(index=2, stage="decode", reason="broken-image", detail="the JPEG ends before its last row")


def dead_letter(**fields: Any) -> Headers:
    values: dict[str, Any] = {
        "topic": "images",
        "partition": 3,
        "offset": 17,
        "timestamp_ms": 1_764_028_800_123,
        "failures": [FAILURE],
        "attempts": 1,
        "worker": "tagstream 0.1.0",
        "models": {"tagger": "compact cccc"},
    }
    return dead_letter_headers(**(values | fields))


def test_the_headers_on_the_wire() -> None:
    assert {name: value for name, value in dead_letter() if name not in CUSTOMARY} == {
        "tagstream-schema": b"dead-letter/1",
        "tagstream-topic": b"images",
        "tagstream-partition": b"3",
        "tagstream-offset": b"17",
        "tagstream-last-offset": b"17",
        "tagstream-timestamp": b"1764028800123",
        "tagstream-failures": b'[{"index":2,"stage":"decode","reason":"broken-image",'
        b'"detail":"the JPEG ends before its last row"}]',
        "tagstream-attempts": b"1",
        "tagstream-worker": b"tagstream 0.1.0",
        "tagstream-models": b'{"tagger":"compact cccc"}',
        "tagstream-nulls": b"[]",
        "tagstream-truncated": b"false",
    }


failures = st.builds(
    Failure,
    index=st.integers(0, 999),
    stage=st.sampled_from(STAGES),
    reason=st.sampled_from(REASONS),
    detail=st.text(max_size=300),
    want=st.none() | st.sampled_from(WANTS),
)


@patient
@given(
    st.lists(failures, min_size=1, max_size=4),
    st.integers(0, 2**62),
    st.integers(1, 99),
    st.booleans(),
    st.lists(st.sampled_from(["key", "value", "headers[3]"]), unique=True),
)
def test_a_dead_letter_reads_back_as_written(
    failed: list[Failure], offset: int, attempts: int, truncated: bool, nulls: list[str]
) -> None:
    headers = dead_letter(failures=failed, offset=offset, attempts=attempts, truncated=truncated, nulls=nulls)
    read = read_dead_letter_headers((("x", b"y"), *headers))
    assert (read.topic, read.partition, read.offset) == ("images", 3, offset)
    assert (read.timestamp_ms, read.attempts, read.truncated) == (1_764_028_800_123, attempts, truncated)
    assert (read.failures, read.nulls) == (tuple(failed), tuple(nulls))
    assert (read.worker, read.models) == ("tagstream 0.1.0", {"tagger": "compact cccc"})
    assert read.indexes == frozenset(failure.index for failure in failed)


def test_a_reader_keeps_an_unknown_reason_as_text() -> None:
    written = dead_letter(failures=[FAILURE, FAILURE])
    later = tuple((name, (value or b"").replace(b'"broken-image"', b'"a-later-one"')) for name, value in written)
    assert [str(failure.reason) for failure in read_dead_letter_headers(later).failures] == ["a-later-one"] * 2
    assert len(replay(b"k", b"v", later)) == 1
    with pytest.raises(ValidationError):
        Failure(index=0, stage="decode", reason="a-later-one", detail="")  # type: ignore[arg-type]


def test_a_dead_letter_names_a_failure() -> None:
    with pytest.raises(ValueError, match="at least one failure"):
        dead_letter(failures=[])


@pytest.mark.parametrize("missing", sorted(set(dict(dead_letter())) - {"tagstream-schema", *CUSTOMARY}))
def test_a_missing_header_is_named(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        read_dead_letter_headers(tuple(header for header in dead_letter() if header[0] != missing))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tagstream-offset", b"seventeen"),
        ("tagstream-offset", None),
        ("tagstream-offset", b"-1"),
        ("tagstream-topic", b"\xff"),
        ("tagstream-failures", b"{}"),
        ("tagstream-failures", b"[]"),
        ("tagstream-failures", b"[" * 100_000),
        ("tagstream-failures", b"[" + b"1," * 100_000 + b"1]"),
        ("tagstream-nulls", b"[" + b"1," * 100_000 + b"1]"),
        ("tagstream-models", b"{" + b'"a":1,' * 100_000 + b'"a":1}'),
        ("tagstream-offset", b"9" * 100_000),
        ("tagstream-failures", b'[{"index":0,"stage":"parse","reason":"Bad luck","detail":""}]'),
        ("tagstream-models", b"[]"),
    ],
)
def test_a_header_that_does_not_read_is_a_value_error(name: str, value: bytes | None) -> None:
    with pytest.raises(ValueError, match="does not read"):
        read_dead_letter_headers((*dead_letter(), (name, value)))


@pytest.mark.parametrize("headers", [(), (("a", b"b"),), (("tagstream-schema", b"dead-letter/9"),)])
def test_other_records_are_no_dead_letters(headers: Headers) -> None:
    with pytest.raises(ValueError, match="not a dead letter of this project"):
        read_dead_letter_headers(headers)


def test_a_thousand_failures_stay_far_below_a_message_limit() -> None:
    many = [Failure(index=i, stage="parse", reason="schema", detail="ü" * 500) for i in range(1000)]
    headers = dead_letter(failures=many)
    assert sum(len(name) + len(value or b"") for name, value in headers) < 200_000
    read = read_dead_letter_headers(headers)
    assert [failure.index for failure in read.failures] == list(range(1000))
    assert {failure.detail for failure in read.failures[DETAILED_FAILURES:]} == {""}
    assert read.failures[:DETAILED_FAILURES] == tuple(many[:DETAILED_FAILURES])


@patient
@given(st.text(st.characters(), max_size=400))
def test_any_detail_becomes_one_bounded_line(detail: str) -> None:
    kept = Failure(index=0, stage="parse", reason="schema", detail=detail).detail
    assert len(kept) <= DETAIL_MAX
    assert kept.splitlines() in ([kept], [])
    assert kept.isprintable()
    kept.encode()


def test_a_signed_url_loses_its_signature() -> None:
    detail = "GET https://s3.example/photos/a.jpg?X-Amz-Signature=0123&X-Amz-Date=1 answered 500"
    kept = Failure(index=0, stage="fetch", reason="unreadable", detail=detail).detail
    assert kept == "GET https://s3.example/photos/a.jpg?… answered 500"


@pytest.mark.parametrize(
    "fields", [{"index": -1}, {"index": "1"}, {"index": 1e3}, {"stage": "think"}, {"reason": "bad-luck"}, {"detail": 5}]
)
def test_a_failure_uses_the_closed_lists(fields: dict[str, Any]) -> None:
    values: dict[str, Any] = {"index": 0, "stage": "parse", "reason": "schema", "detail": ""}
    with pytest.raises(ValidationError):
        Failure(**(values | fields))


def test_reasons_are_words_for_metrics_and_command_lines() -> None:
    assert len(set(REASONS)) == len(REASONS)
    assert all(reason.replace("-", "").isalpha() and reason.islower() for reason in REASONS)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        ((("tagstream-only", b"0"),), {0}),
        ((("tagstream-only", b"3,0,999"),), {0, 3, 999}),
        ((("tagstream-only", b"1"), ("tagstream-only", b"2")), {2}),
        ((("tagstream-only", b""),), None),
        ((("tagstream-only", None),), None),
        ((("tagstream-only", b"1,"),), None),
        ((("tagstream-only", b"-1"),), None),
        ((("tagstream-only", b"1000"),), None),
        ((("tagstream-only", b"all\n"),), None),
        ((("tagstream-only", b"\xff"),), None),
    ],
)
def test_a_replay_names_events_and_an_unreadable_one_means_all(headers: Headers, expected: set[int] | None) -> None:
    assert only_indexes(headers) == expected


def test_a_replay_is_the_original_record_and_names_what_failed() -> None:
    original: Headers = (("traceparent", b"00-1"), ("a", None), ("a", b"2"))
    sent = without_nulls(None, b"{}", original)
    failed = [FAILURE, FAILURE.model_copy(update={"index": 0}), FAILURE]
    added = dead_letter(failures=failed, nulls=sent.nulls)
    [(key, value, headers)] = replay(sent.key, sent.value, (*sent.headers, *added))
    assert (key, value) == (None, b"{}")
    assert headers == (*original, ("tagstream-only", b"0,2"))
    assert only_indexes(headers) == frozenset({0, 2})


def test_one_that_stands_for_many_records_names_their_keys_and_each_is_replayed() -> None:
    keys = [b"k", None, b"", b"\xff\x00"]
    headers = (("a", b"1"), *dead_letter(keys=keys, last_offset=20))
    read = read_dead_letter_headers(headers)
    assert (read.offset, read.last_offset, read.place) == (17, 20, "images:3:17-20")
    assert read.keys_or(b"k") == keys
    assert json.loads(read.model_dump_json())["keys"] == ["aw==", None, "", "/wA="]
    sent = (("a", b"1"), ("tagstream-only", b"2"))
    assert replay(b"k", b"v", headers) == [(key, b"v", sent) for key in keys]
    [written] = [value for name, value in headers if name == "tagstream-keys"]
    assert len(written or b"") == sum(map(bytes_in_keys, keys)) + len("[]") - len(",")


@pytest.mark.parametrize(
    ("keys", "last"),
    [(b'["aw==","aw=="]', 17), (b'["aw==","a"]', 18), (b'["aw==",7]', 18), (b'"aw=="', 17), (b"[" * 100_000, 18)],
)
def test_keys_that_are_invalid_or_not_one_for_each_offset_are_refused(keys: bytes, last: int) -> None:
    with pytest.raises(ValueError, match="a header that does not read"):
        read_dead_letter_headers((*dead_letter(last_offset=last), ("tagstream-keys", keys)))


def test_a_dead_letter_that_lost_its_value_is_not_replayed() -> None:
    with pytest.raises(ValueError, match="images:3:17"):
        replay(b"k", b"", dead_letter(truncated=True))


def test_other_software_finds_the_headers_that_it_knows() -> None:
    more = dict(dead_letter(failures=[FAILURE, FAILURE], timestamp_ms=-1, append_time=True))
    assert {name: more[name] for name in CUSTOMARY} == {
        "kafka_dlt-original-topic": b"images",
        "kafka_dlt-original-partition": b"\x00\x00\x00\x03",
        "kafka_dlt-original-offset": b"\x00\x00\x00\x00\x00\x00\x00\x11",
        "kafka_dlt-original-timestamp": b"\xff" * 8,
        "kafka_dlt-original-timestamp-type": b"LogAppendTime",
        "kafka_dlt-exception-message": b"decode: broken-image: the JPEG ends before its last row (and 1 more)",
        "x-original-topic": b"images",
    }
    assert dict(dead_letter())["kafka_dlt-original-timestamp-type"] == b"CreateTime"


def test_a_replay_takes_the_headers_of_other_software_with_it_no_more() -> None:
    forged: Headers = (("kafka_dlt-original-topic", b"elsewhere"), ("x-original-topic", b"elsewhere"), ("a", b"1"))
    assert strip_own_headers(forged) == (("a", b"1"),)
    [(_, _, headers)] = replay(b"k", b"v", (("a", b"1"), *dead_letter()))
    assert headers == (("a", b"1"), ("tagstream-only", b"2"))


def test_our_headers_are_stripped_whatever_put_them_there() -> None:
    headers = (("a", b"1"), ("tagstream-only", b"0"), ("tagstream-made-up", b""), ("b", None))
    assert strip_own_headers(headers) == (("a", b"1"), ("b", None))


nullable = st.none() | st.binary(max_size=4)


@given(nullable, nullable, st.lists(st.tuples(st.sampled_from("abc"), nullable), max_size=4).map(tuple))
def test_nulls_survive_a_client_that_refuses_them(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    sent = without_nulls(key, value, headers)
    assert None not in (sent.key, sent.value, *(content for _, content in sent.headers))
    added = (*sent.headers, *dead_letter(nulls=sent.nulls))
    read = read_dead_letter_headers(added)
    restored = with_nulls(sent.key, sent.value, added, read.nulls)
    assert (restored[0], restored[1], strip_own_headers(restored[2])) == (key, value, headers)
    assert json.loads(dict(added)["tagstream-nulls"] or b"") == list(sent.nulls)
