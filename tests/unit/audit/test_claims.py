"""What outcomes say they answer, and how many events a record has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.image_event import MAX_RECORDS, parse_message
from tests.fuzz.parts import headers, nullable
from tests.fuzz.targets.messages import messages
from tests.unit.audit.history import dead_letter
from tests.unit.schemas.documents import EVENT, enriched, notification, own, retraction, skip
from workers.audit.claims import Claim, claim_of, count_events

AT = ("images.dead-letters", 0, 0)


@pytest.mark.parametrize("document", [enriched(), retraction(), skip()])
def test_an_outcome_answers_the_event_that_it_names(document: Any) -> None:
    event = document.event
    claim = claim_of(document.to_bytes(), (("tagstream-input-key", b"k"),))
    assert claim == Claim(event.topic, event.partition, event.offset, event.offset, "whole", 1 << event.index)


def test_a_partial_image_is_half_of_an_outcome() -> None:
    image = enriched(status="partial", reason="caption-failed", caption=None)
    claim = claim_of(image.to_bytes(), ())
    assert claim is not None
    assert claim.kind == "partial"


def test_a_dead_letter_answers_what_failed_of_its_record() -> None:
    assert claim_of(b"", dead_letter(17, (0, 3), of=2, at=AT).headers) == Claim("images", 2, 17, 17, "failed", 0b1001)


@pytest.mark.parametrize("reason", ["batch-too-large", "batch-unreadable", "too-many-headers", "skipped-by-operator"])
def test_the_dead_letter_of_what_was_not_opened_answers_all_that_is_in_it(reason: Any) -> None:
    claim = claim_of(b"", dead_letter(17, at=AT, reason=reason).headers)
    assert claim == Claim("images", 0, 17, 17, "record", 1)
    claim = claim_of(b"", dead_letter(17, at=AT, last=40, reason=reason).headers)
    assert claim == Claim("images", 0, 17, 40, "record", 1)


def _with(**event: Any) -> bytes:
    document = json.loads(enriched().to_bytes())
    return json.dumps(document | {"event": EVENT.model_dump() | event}).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[" * 100_000,
        b'{"schema": "enriched-image/9", "event": {}}',
        b'{"schema": {}, "event": 3}',
        b'{"schema": "skipped/1"}',
        _with(index=MAX_RECORDS),
        _with(index=-1),
        _with(offset=-1),
        _with(offset=2**63),
        _with(partition=2**31),
        _with(offset="17"),
        _with(partition=True),
        _with(topic=["images"]),
    ],
)
def test_what_names_no_event_is_no_outcome(value: bytes | None) -> None:
    assert claim_of(value, ()) is None


def test_a_dead_letter_that_does_not_read_is_no_outcome() -> None:
    named = dead_letter(17, at=AT).headers
    assert claim_of(b"", tuple(header for header in named if header[0] != "tagstream-failures")) is None
    assert claim_of(b"", dead_letter(17, at=AT, last=16).headers) is None
    assert claim_of(b"", dead_letter(17, (MAX_RECORDS,), at=AT).headers) is None


@pytest.mark.parametrize("parts", list(messages()))
def test_events_are_counted_as_they_are_read(parts: tuple[bytes, ...]) -> None:
    value, named = nullable(parts[0]), headers(parts[1:])
    assert count_events(value, named) == len(parse_message(value, named, topic="t", partition=0, offset=0))


@pytest.mark.parametrize(
    "value",
    [
        notification(*["ObjectCreated:Put"] * 3),
        {"Records": [1, 2, 3]},
        {"Records": []},
        {"Records": [1], "more": {"Records": [1, 2]}},
        {"Type": "Notification", "Message": json.dumps({"Records": [1, 2]})},
        own(key="Records"),
        own(key="Records", note=["Records"]),
        {"Records": [1] * (MAX_RECORDS + 1)},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_several_events_are_counted_wherever_they_stand(value: Any, escaped: bool) -> None:
    text = json.dumps(value)
    written = (text.replace("Records", "\\u0052ecords") if escaped else text).encode()
    assert count_events(written, ()) == len(parse_message(written, (), topic="t", partition=0, offset=0))
