"""S3's bucket notifications, bare or wrapped by SNS or EventBridge.

MinIO, AWS and others send them.

Names of the object are read strictly; an odd optional value (etag, size, sequencer, time) counts as absent. An etag
with characters that no store writes is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, WithJsonSchema

from ..text import (
    Bucket,
    EventEtag,
    EventSequencer,
    EventSize,
    EventTime,
    EventVersion,
    Key,
    percent_decoded,
    subject,
    version_or_none,
)
from .words import Document, Entry, Ignored, ImageEvent, RecordPlace, UnreadableDocument, document, quoted, schema_fault

MAX_RECORDS = 1000
"""Events that one message may hold."""

# Not PutTagging, PutRetention and their like: an indexer that writes tags back must not wake us again.
_CREATED = frozenset(f"ObjectCreated:{cause}" for cause in ("Put", "Post", "Copy", "CompleteMultipartUpload"))
_REMOVED = frozenset(f"ObjectRemoved:{cause}" for cause in ("Delete", "DeleteMarkerCreated", "DeleteAllVersions"))
_EXPIRED = "LifecycleExpiration:"


def unescaped(key: str) -> str:
    """A notification's key as the store knows it: spaces travel as plus signs, other bytes percent-encoded.

    Raises:
        ValueError: as `percent_decoded`.
    """
    return percent_decoded(key.replace("+", " "))


def _any(kind: str) -> WithJsonSchema:
    """How a field that only helps is published here: notifications are as their stores write them."""
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "null"}]})


_Size = Annotated[EventSize, _any("integer")]
_Etag = Annotated[EventEtag, _any("string")]
_Sequencer = Annotated[EventSequencer, _any("string")]
_Time = Annotated[EventTime, _any("string")]
_EscapedKey = Annotated[
    str, Field(min_length=1), AfterValidator(unescaped), AfterValidator(TypeAdapter(Key).validate_python)
]


class S3Bucket(BaseModel):
    name: Bucket


class S3Object(BaseModel):
    key: _EscapedKey = Field(description="Query-escaped: a space is a plus sign, other bytes are percent-encoded.")
    size: _Size = None
    etag: _Etag = Field(None, alias="eTag")
    version_id: EventVersion = Field(None, alias="versionId")
    sequencer: _Sequencer = None


class S3Body(BaseModel):
    bucket: S3Bucket
    object: S3Object


class S3Record(BaseModel):
    name: str = Field(alias="eventName")
    time: _Time = Field(None, alias="eventTime")
    s3: S3Body


class S3Notification(BaseModel):
    """The parts of a bucket notification that are read; all others are ignored."""

    records: list[S3Record] = Field(alias="Records", min_length=1, max_length=MAX_RECORDS)


class _BridgeObject(BaseModel):
    key: Key  # EventBridge does not escape it
    size: _Size = None
    etag: _Etag = None
    version_id: EventVersion = Field(None, alias="version-id")
    sequencer: _Sequencer = None


class _BridgeDetail(BaseModel):
    bucket: S3Bucket
    object: _BridgeObject


class _Bridged(BaseModel):
    time: _Time = None
    detail: _BridgeDetail


def is_notification(doc: Document) -> bool:
    return "Records" in doc or _is_test(doc) or _is_bridged(doc)


def read(doc: Document, place: RecordPlace) -> tuple[Entry, ...]:
    """One entry for each record.

    Raises:
        UnreadableDocument: the message as a whole.
    """
    if _is_bridged(doc):
        return (_entry(doc, 0, place, _bridged),)
    if "Records" not in doc:
        return (Ignored(0, "test-event"),)
    records = doc["Records"]
    if not isinstance(records, list):
        raise UnreadableDocument("schema", "Records is not a list")
    if not records:
        raise UnreadableDocument("not-an-event", "Records is empty")
    if len(records) > MAX_RECORDS:
        raise UnreadableDocument(
            "too-many-records", f"{len(records):,} records in one message; at most {MAX_RECORDS:,}"
        )
    return tuple(_entry(record, index, place, _record) for index, record in enumerate(records))


def _is_test(doc: Document) -> bool:
    return _plain(doc.get("Event")) == "TestEvent"


def _is_bridged(doc: Document) -> bool:
    return doc.get("source") == "aws.s3" and "detail-type" in doc


def _entry(
    record: Any, index: int, place: RecordPlace, read_one: Callable[[Document, int, RecordPlace], Entry]
) -> Entry:
    if not isinstance(record, dict):
        return UnreadableDocument("schema", "a record is not an object").bad_event(index)
    try:
        return read_one(record, index, place)
    except ValidationError as error:
        return schema_fault(error).bad_event(index)


def _record(record: Document, index: int, place: RecordPlace) -> Entry:
    name = _plain(record.get("eventName"))
    if name is not None and not _concerns_us(name):
        return Ignored(index, "event-type", _subject_of(S3Body, record.get("s3")))
    read = S3Record.model_validate(record)
    return _event(_plain(read.name) or "", read.s3.bucket.name, read.s3.object, read.time, index, place)


def _bridged(doc: Document, index: int, place: RecordPlace) -> Entry:
    kind, detail = doc["detail-type"], doc.get("detail")
    if kind == "Object Created":
        name = "ObjectCreated:Put"
    elif kind == "Object Deleted":
        marker = isinstance(detail, dict) and detail.get("deletion-type") == "Delete Marker Created"
        name = "ObjectRemoved:DeleteMarkerCreated" if marker else "ObjectRemoved:Delete"
    else:
        return Ignored(index, "event-type", _subject_of(_BridgeDetail, detail))
    read = _Bridged.model_validate(doc)
    return _event(name, read.detail.bucket.name, read.detail.object, read.time, index, place)


def _event(
    name: str, bucket: str, object_: S3Object | _BridgeObject, time: str | None, index: int, place: RecordPlace
) -> ImageEvent:
    retract = name not in _CREATED
    # A delete marker hides the whole object, and its version id is the marker's own. A plain Delete with a version id
    # removed that version for good; whether it was the newest, the event does not tell. That version may be "null", the
    # one from before the bucket kept versions, and others may have come since.
    one_version = retract and name.endswith(":Delete") and object_.version_id is not None
    return ImageEvent(
        id=object_.sequencer or place.event_id(index),
        dialect="s3",
        action="retract" if retract else "enrich",
        index=index,
        bucket=bucket,
        key=object_.key,
        version_id=_version_of(object_.version_id, retract, one_version),
        etag=object_.etag,
        size=object_.size,
        sequencer=object_.sequencer,
        event_time=time,
        versioned_removal=one_version,
    )


def _version_of(version_id: str | None, retract: bool, one_version: bool) -> str | None:
    if retract:
        return version_id if one_version else None
    return version_or_none(version_id)


def _plain(name: object) -> str | None:
    """An event's name without the prefix that some send and others don't."""
    return name.removeprefix("s3:") if isinstance(name, str) else None


def _concerns_us(name: str) -> bool:
    return name in _CREATED or name in _REMOVED or name.startswith(_EXPIRED)


def _subject_of(model: type[S3Body] | type[_BridgeDetail], part: object) -> str | None:
    try:
        read = model.model_validate(part)
    except ValidationError:
        return None
    return subject(read.bucket.name, read.object.key)


def unwrapped(doc: Document) -> Document:
    """What an SNS envelope holds; any other document as it is.

    Raises:
        UnreadableDocument: the envelope holds no JSON object, or is not a notification.
    """
    if not ("TopicArn" in doc and isinstance(doc.get("Type"), str)):
        return doc
    if doc["Type"] != "Notification":
        raise UnreadableDocument(
            "not-an-event", f"SNS sent a {quoted(doc['Type'])}; it is the subscription's owner who answers it"
        )
    message = doc.get("Message")
    if not isinstance(message, str):
        raise UnreadableDocument("schema", "the SNS envelope's Message is not a string")
    return document(message)
