"""The result of parsing, for every dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import ValidationError
from pydantic_core import from_json

from ..dead_letter import Reason
from ..enriched_image import Dialect, SkipReason
from ..options import Options
from ..text import subject

Document: TypeAlias = dict[str, Any]
"""A JSON object."""

EVENT_BYTES_MAX = 64 << 10
"""Bytes of JSON that a message of one event may hold: the longest own event in UTF-8 has half of that."""
MESSAGE_BYTES_MAX = 4 << 20
"""The same for a list of S3 records and its wrappers: 1,000 with the longest keys, percent-encoded, fit in."""
CONTAINERS_MAX = 50_000
"""Lists and objects of a message: each takes seventy bytes, and a place in the garbage collector's next round, for the
two bytes that it is written with. 1,000 S3 records have some 10,000."""
COMMAS_MAX = 100_000
"""Separators of members and elements, each of them an object too. 1,000 S3 records have some 30,000."""
_LONG = (b"Records", b"data_base64")
"""One of these names stands in whatever may be longer than one event."""

_DETAILED_ERRORS = 3
_QUOTED_MAX = 60

_DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """One thing that happened to one object.

    Args:
        id: the producer's id; for S3 the sequencer, or else `topic:partition:offset:index`.
        dialect: what the message was written in; events inside CloudEvents count as those.
        action: "enrich": there is an image; "retract": it is gone.
        index: counts the events inside one message, from 0.
        key: as the store knows it, nothing escaped.
        version_id: of the object; None for the removal of a whole object, and for an image whose version S3 calls
            "null". Only the removal of that one version names it so.
        etag: without quotes.
        size: bytes, where the event tells.
        sequencer: hexadecimal; orders the events of one object (`newer`).
        event_time: RFC 3339.
        versioned_removal: only the version `version_id` is gone, the object may live on in others.
    """

    id: str
    dialect: Dialect
    action: Literal["enrich", "retract"]
    index: int
    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    size: int | None = None
    sequencer: str | None = None
    event_time: str | None = None
    options: Options = _DEFAULTS
    versioned_removal: bool = False

    @property
    def subject(self) -> str:
        return subject(self.bucket, self.key)


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that asks for nothing; `subject` where it names an object."""

    index: int
    reason: SkipReason
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class BadEvent:
    """An unreadable message (index 0), or one unreadable event of it."""

    index: int
    reason: Reason
    detail: str


Entry: TypeAlias = ImageEvent | Ignored | BadEvent


class RecordPlace(NamedTuple):
    """Where a message stands."""

    topic: str
    partition: int
    offset: int

    def event_id(self, index: int) -> str:
        """The id of an event without its own."""
        return f"{self.topic}:{self.partition}:{self.offset}:{index}"


class UnreadableDocument(Exception):
    """A message or event can't be read; it becomes a BadEvent."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def bad_event(self, index: int) -> BadEvent:
        return BadEvent(index, self.reason, self.detail)


def quoted(value: str) -> str:
    """A value of a message as an error text shows it: its first characters, in quotes."""
    return repr(value if len(value) <= _QUOTED_MAX else value[:_QUOTED_MAX] + "…")


def excess(data: bytes) -> str | None:
    """Why a message has too much JSON to parse; None: it can be parsed."""
    most, note = MESSAGE_BYTES_MAX, ""
    if EVENT_BYTES_MAX < len(data) <= most and not any(name in data for name in _LONG):
        most, note = EVENT_BYTES_MAX, " without S3's `Records`"
    if len(data) > most:
        return f"{len(data):,} bytes of JSON; at most {most:,} are read{note}"
    if len(data) > CONTAINERS_MAX and (containers := data.count(b"[") + data.count(b"{")) > CONTAINERS_MAX:
        return f"{containers:,} lists and objects; at most {CONTAINERS_MAX:,} are read"
    if len(data) > COMMAS_MAX and (commas := data.count(b",")) > COMMAS_MAX:
        return f"{commas:,} commas; at most {COMMAS_MAX:,} are read"
    return None


def document(value: bytes | str | None) -> Document:
    """The JSON object in `value`, in linear time.

    The parser itself refuses more than 200 levels of nesting, whole numbers of more than 4,300 digits, lone
    surrogates, NaN and everything that is not UTF-8. Of a name that comes twice the last value counts.

    Raises:
        UnreadableDocument: `undecodable`, or `not-an-event` where it is JSON of another kind.
    """
    if value is None:
        raise UnreadableDocument("undecodable", "the value is null (a tombstone)")
    data = value.encode() if isinstance(value, str) else value
    if (why := excess(data)) is not None:
        raise UnreadableDocument("undecodable", why)
    try:
        parsed = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableDocument("undecodable", _not_json(data, error)) from None
    if not isinstance(parsed, dict):
        raise UnreadableDocument("not-an-event", f"a JSON {_JSON_NAMES[type(parsed)]}, not an object")
    return parsed


_JSON_NAMES = {
    list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip


def _not_json(value: bytes, error: ValueError) -> str:
    if not value:
        return "the value is empty"
    if value[0] == 0:
        return "begins with a null byte, as a schema registry's serializer writes; plain JSON in UTF-8 is read"
    if value.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "not JSON in UTF-8: it begins with a byte order mark; write plain UTF-8"
    return f"not JSON in UTF-8: {error}"


def schema_fault(error: ValidationError) -> UnreadableDocument:
    """Names the fields that are wrong, never their contents."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}" for fault in faults[:_DETAILED_ERRORS]]
    more = len(faults) - _DETAILED_ERRORS
    return UnreadableDocument("schema", "; ".join(lines) + (f"; and {more} more" if more > 0 else ""))
