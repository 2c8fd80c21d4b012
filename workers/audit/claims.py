"""Claims of output records, and numbers of events in input records."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson
from pydantic_core import from_json

from schemas.dead_letter import PARTIAL_ALONE, Reason, is_dead_letter, read_dead_letter_headers
from schemas.enriched_image import reasons_in
from schemas.image_event import MAX_RECORDS, parse_message
from workers.types import Headers

Kind: TypeAlias = Literal["whole", "partial", "failed", "record"]
"""`whole` answers an event, a partial image whose reasons bring no dead letter too; `partial` does so together with a
dead letter, which is `failed`; `record` answers whole records, whatever is in them."""

_KINDS: Final[dict[Any, Kind]] = {"enriched-image/1": "whole", "image-retraction/1": "whole", "skipped/1": "whole"}
_OF_WHOLE_RECORDS: Final[frozenset[Reason]] = frozenset(
    ("batch-too-large", "batch-unreadable", "too-many-headers", "skipped-by-operator")
)
_MAY_HIDE: Final = (b"\\u", b"base64")
_SHORT = 100_000


class Claim(NamedTuple):
    """One outcome, by the coordinates of its input.

    Args:
        last: of a dead letter that stands for many offsets; else the offset itself.
        events: a bit for each index inside the message that it answers.
    """

    topic: str
    partition: int
    offset: int
    last: int
    kind: Kind
    events: int


def claim_of(value: bytes | None, headers: Headers) -> Claim | None:
    """The events that an outcome answers; None for a foreign record. Its validity is not checked."""
    if is_dead_letter(headers):
        return _dead_letter(headers)
    try:
        document = orjson.loads(value or b"")
        kind = _KINDS[document["schema"]]
        event = document["event"]
        place = event["topic"], event["partition"], event["offset"]
        index = event["index"]
        if not reasons_in(document) <= PARTIAL_ALONE:
            kind = "partial"
    except (ValueError, KeyError, TypeError):
        return None
    topic, partition, offset = place
    if not (type(topic) is str and type(partition) is type(offset) is type(index) is int):
        return None
    if not (0 <= partition < 2**31 and 0 <= offset < 2**63 and 0 <= index < MAX_RECORDS):  # Kafka has no others
        return None
    return Claim(topic, partition, offset, offset, kind, 1 << index)


def _dead_letter(headers: Headers) -> Claim | None:
    try:
        told = read_dead_letter_headers(headers)
    except ValueError:
        return None
    place = told.topic, told.partition, told.offset
    if told.last_offset < told.offset or max(told.indexes) >= MAX_RECORDS:
        return None
    if told.last_offset > told.offset or any(failure.reason in _OF_WHOLE_RECORDS for failure in told.failures):
        return Claim(*place, told.last_offset, "record", 1)
    events = 0
    for index in told.indexes:
        events |= 1 << index
    return Claim(*place, told.offset, "failed", events)


def count_events(value: bytes | None, headers: Headers) -> int:
    """The number of events in an input record, mostly without reading them.

    Only a list called Records holds more than one event, and only escapes or base64 hide its name.
    """
    if value is None:
        return 1
    lists = value.count(b"Records")
    hidden = any(sign in value for sign in _MAY_HIDE)
    if not hidden and (lists == 0 or (lists == 1 and len(value) <= _SHORT and _is_list_of_one(value))):
        return 1
    return len(parse_message(value, headers, topic="", partition=0, offset=0))


def _is_list_of_one(value: bytes) -> bool:
    try:
        document = from_json(value)
    except ValueError:
        return True  # one dead letter, of the message
    records = document.get("Records") if isinstance(document, dict) else None
    return isinstance(records, list) and len(records) == 1
