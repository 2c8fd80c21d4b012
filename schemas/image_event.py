"""Reads image events from whatever arrives.

Three dialects: our own `image-event/1`, S3's bucket notifications (bare, or inside SNS or EventBridge), and
CloudEvents around one of these two. Which buckets and keys are welcome is not decided here.
"""

from __future__ import annotations

from .dialects import cloudevents, own, s3
from .dialects.words import BadEvent, Document, Entry, Ignored, ImageEvent, RecordPlace, UnreadableDocument, document
from .options import Options, Want
from .text import Headers

__all__ = ["MAX_RECORDS", "BadEvent", "Ignored", "ImageEvent", "Options", "Want", "newer", "parse_message"]

MAX_RECORDS = s3.MAX_RECORDS


def parse_message(
    value: bytes | None, headers: Headers, *, topic: str, partition: int, offset: int
) -> tuple[ImageEvent | Ignored | BadEvent, ...]:
    """Every event of one Kafka record, in order: one entry for each index from 0, at least one.

    Never raises, whatever the bytes are. A message that can't be read as a whole is one BadEvent with index 0; a
    fault of one event stays with its index.
    """
    try:
        return _entries(value, headers, RecordPlace(topic, partition, offset))
    except UnreadableDocument as fault:
        return (fault.bad_event(0),)


def _entries(value: bytes | None, headers: Headers, place: RecordPlace) -> tuple[Entry, ...]:
    if cloudevents.is_structured(headers):
        return _inside(cloudevents.structured(document(value)), place)
    envelope = cloudevents.binary(value, headers)
    if envelope is not None:
        return _inside(envelope, place)
    doc = document(value)
    if cloudevents.is_envelope(doc):
        return _inside(cloudevents.structured(doc), place)
    return _events(doc, place)


def _inside(envelope: cloudevents.CloudEvent, place: RecordPlace) -> tuple[Entry, ...]:
    if envelope.data is None:
        return (envelope.referred(),)
    return tuple(envelope.around(entry) for entry in _events(envelope.data, place))


def _events(doc: Document, place: RecordPlace) -> tuple[Entry, ...]:
    doc = s3.unwrapped(doc)
    if own.is_own(doc):
        return (own.read(doc, 0),)
    if s3.is_notification(doc):
        return s3.read(doc, place)
    raise UnreadableDocument(
        "not-an-event", "a JSON object, but neither image-event/1 nor an S3 notification nor a CloudEvent"
    )


def newer(one: str, other: str) -> bool:
    """Whether sequencer `one` came after `other`, for events of one object.

    Sequencers are hexadecimal numbers of any length: the shorter counts as padded with zeros on its left. (S3's
    documentation has named either side over the years; MinIO's are clock readings, which compare as numbers.)
    """
    width = max(len(one), len(other))
    return one.lower().rjust(width, "0") > other.lower().rjust(width, "0")
