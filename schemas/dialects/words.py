"""What every dialect is read into."""

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

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of JSON that one message may hold: 1,000 S3 records with the longest keys, percent-encoded, fit in. Parsed, a
message takes at most 25 times as much memory (a list of empty lists)."""

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
    """A message that can't be read (index 0), or one event of it."""

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
        """The id of an event that brings none."""
        return f"{self.topic}:{self.partition}:{self.offset}:{index}"


class UnreadableDocument(Exception):
    """Stays inside the dialects: a whole message, or one event where events are read, is a BadEvent."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def bad_event(self, index: int) -> BadEvent:
        return BadEvent(index, self.reason, self.detail)


def quoted(value: str) -> str:
    """A value of a message as an error text shows it: its first characters, in quotes."""
    return repr(value if len(value) <= _QUOTED_MAX else value[:_QUOTED_MAX] + "…")


def document(value: bytes | str | None) -> Document:
    """The JSON object in `value`, in linear time.

    The parser itself refuses more than 200 levels of nesting, whole numbers of more than 4,300 digits, lone
    surrogates, NaN and everything that is not UTF-8. Of a name that comes twice the last value counts.

    Raises:
        UnreadableDocument: `undecodable`, or `not-an-event` where it is JSON of another kind.
    """
    if value is None:
        raise UnreadableDocument("undecodable", "the value is null (a tombstone)")
    if len(value) > MESSAGE_BYTES_MAX:
        raise UnreadableDocument("undecodable", f"{len(value):,} bytes of JSON; at most {MESSAGE_BYTES_MAX:,} are read")
    try:
        parsed = from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableDocument("undecodable", _not_json(value, error)) from None
    if not isinstance(parsed, dict):
        raise UnreadableDocument("not-an-event", f"a JSON {_JSON_NAMES[type(parsed)]}, not an object")
    return parsed


_JSON_NAMES = {
    list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip


def _not_json(value: bytes | str, error: ValueError) -> str:
    if not value:
        return "the value is empty"
    if isinstance(value, bytes) and value[0] == 0:
        return "begins with a null byte, as a schema registry's serializer writes; plain JSON in UTF-8 is read"
    if isinstance(value, bytes) and value.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "not JSON in UTF-8: it begins with a byte order mark; write plain UTF-8"
    return f"not JSON in UTF-8: {error}"


def schema_fault(error: ValidationError) -> UnreadableDocument:
    """Names the fields that are wrong, never their contents."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}" for fault in faults[:_DETAILED_ERRORS]]
    more = len(faults) - _DETAILED_ERRORS
    return UnreadableDocument("schema", "; ".join(lines) + (f"; and {more} more" if more > 0 else ""))
