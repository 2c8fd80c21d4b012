"""Strings that several documents share, with their bounds on the wire."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
)

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""Kafka headers in order; a name may come more than once, a value may be null."""

NULL_VERSION = "null"
_STEP_MAX = 60
"""Characters of a name in a document that an error repeats, when it says where something is wrong."""

KEY_BYTES_MAX = 1024
"""S3's own bound of an object key, in bytes of UTF-8."""
_ESCAPED_MAX = 3 * KEY_BYTES_MAX
"""Most characters of a key with every byte percent-encoded."""


def _key_of_s3(key: str) -> str:
    if len(key.encode()) > KEY_BYTES_MAX:
        raise ValueError(f"an object key has at most {KEY_BYTES_MAX} bytes")
    return key


def _nameable(key: str) -> str:
    if "\0" in key:
        raise ValueError("an object key has no NUL character")
    return key


def _bucket_of_s3(bucket: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("a bucket's name has 3 to 63 letters, digits, and . _ : - between its first and last")
    return bucket


def percent_decoded(name: str) -> str:
    """A key, bucket or version id that travelled percent-encoded.

    Raises:
        ValueError: no key of S3 is as long as that, and to decode it would take two hundred times its size in memory;
            or it is not UTF-8, and replacing characters would name another object.
    """
    if len(name) > _ESCAPED_MAX:
        raise ValueError(f"{len(name):,} characters, where a key of {KEY_BYTES_MAX} bytes has {_ESCAPED_MAX} at most")
    try:
        return unquote_to_bytes(name).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 once it is percent-decoded") from None


def visible(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds a character that no store writes into an etag or a version id: it is a header's value.
    """
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("only visible ASCII characters are allowed")
    return text


def version_or_none(version_id: str | None) -> str | None:
    """None for the version that S3 calls "null".

    Such a version was written while the bucket kept no versions, and is overwritten like an object without versions, so
    its name identifies no content.
    """
    return None if version_id == NULL_VERSION else version_id


def _tag_name(name: str) -> str:
    if name.strip() != name or not name.isprintable():
        raise ValueError("a tag's name has no control characters, and no blanks at its ends")
    return name


def _unquoted(etag: object) -> object:
    """HTTP quotes an etag, notifications don't: here it never has quotes."""
    return etag.strip('"') if isinstance(etag, str) else etag


def _or_none(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("it must be a time of the years 1 to 9999 in UTC") from None
    return text


_RFC_3339 = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")
"""What S3 has allowed at any time, and every store that grew from it; no client asks for another name."""

Bucket = Annotated[str, Field(min_length=1, max_length=255, pattern="^[^/]+$"), AfterValidator(_bucket_of_s3)]
Key = Annotated[
    str, Field(min_length=1, max_length=KEY_BYTES_MAX), AfterValidator(_key_of_s3), AfterValidator(_nameable)
]
"""An object key as the store knows it: nothing is escaped."""
Short = Annotated[str, Field(min_length=1, max_length=256)]
BY_MAX: Final = 20
"""People whom an outcome names, at most."""
Version = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(visible)]
Sequencer = Annotated[str, Field(min_length=1, max_length=128, pattern="^[0-9A-Fa-f]+$")]
"""Hexadecimal; the greater is the newer, among events of one object (see `image_event.newer`)."""
Moment = Annotated[
    str,
    Field(pattern=_RFC_3339, json_schema_extra={"format": "date-time"}),
    AfterValidator(_moment),
]
"""An RFC 3339 timestamp with its offset from UTC, within the years 1 to 9999 of UTC."""
TagName: TypeAlias = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_tag_name)]
"""One line that steers no terminal and no model."""

READS: Final = "reads"
"""The context of a validation that reads what another version may have written."""
_LATER = re.compile("[a-z][a-z0-9-]{0,63}")


def _known_or_later(value: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
    try:
        return validate(value)
    except ValidationError:
        if info.context == READS and isinstance(value, str) and _LATER.fullmatch(value):
            return value
        raise


OR_LATER: Final = WrapValidator(_known_or_later)
"""Around a `reason`: a writer has the closed list, a reader keeps a later version's word as text."""

_OR_NONE = WrapValidator(_or_none)
"""Around a nullable optional field of an event: an odd value counts as absent."""
EventEtag = Annotated[
    Short | None, BeforeValidator(_unquoted), _OR_NONE, AfterValidator(lambda etag: etag and visible(etag))
]
"""Characters that no store writes are a fault: such an etag was made up."""
EventVersion = Annotated[Version | None, BeforeValidator(lambda version_id: None if version_id == "" else version_id)]
EventSize = Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, _OR_NONE]
EventSequencer = Annotated[Sequencer | None, _OR_NONE]
EventTime = Annotated[Moment | None, _OR_NONE]


def first_fault(error: ValueError, known: Container[str] | None = None) -> str:
    """The first fault of a ValidationError in few words, without read values.

    Args:
        known: names that may be told; None: all, also names that were read.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if fault["type"].startswith("union_tag"):  # its message repeats the tag
        return "its `schema` is none that is known"
    steps = [step for step in fault["loc"] if known is None or isinstance(step, int) or step in known]
    where = ".".join(str(step)[:_STEP_MAX] for step in steps)  # a step may be a name that was read
    return f"{where}: {fault['msg']}" if where else fault["msg"]


def subject(bucket: str, key: str) -> str:
    """How an object is named in outputs and in record keys: `bucket/key`, nothing escaped."""
    return f"{bucket}/{key}"


VERSION_MAX: Final = 2**53 - 1
"""In the year 2255. JavaScript, jq and every double keep whole numbers up to here."""
OutcomeVersion = Annotated[int, Field(strict=True, ge=0, le=VERSION_MAX)]
