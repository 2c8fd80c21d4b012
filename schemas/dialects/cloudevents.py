"""CloudEvents 1.0 by the Kafka protocol binding: binary mode (headers `ce_*`) and structured mode (JSON).

The data is an event in one of the other dialects. Without data, `dataref` may name the image itself, as a URI
`s3://bucket/key` (percent-encoded, optionally with `?versionId=`).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..text import Bucket, Headers, Key, Moment, Short, Version, percent_decoded, version_or_none
from .words import Document, Entry, ImageEvent, UnreadableDocument, document, schema_fault

_S3_URI = re.compile(r"s3://([^/?#]+)/([^?#]+)(?:\?versionId=([^&#]+))?", re.DOTALL)
_MOMENT: TypeAdapter[str] = TypeAdapter(Moment)


class _Attributes(BaseModel):
    """The context attributes that matter here; others are ignored."""

    model_config = ConfigDict(frozen=True)

    specversion: str = Field(pattern=r"^1\.[0-9]+$")
    id: Short
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    time: str | None = None
    datacontenttype: str | None = None
    dataref: str | None = None


class _Referred(BaseModel):
    bucket: Bucket
    key: Key
    version_id: Version | None


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An envelope and the JSON object in it; None if there is only a reference."""

    attributes: _Attributes
    data: Document | None

    def referred(self) -> ImageEvent:
        """The event that `dataref` makes.

        Raises:
            UnreadableDocument: there is no `dataref`, or not as it should be.
        """
        uri = self.attributes.dataref
        if not uri:
            raise UnreadableDocument("not-an-event", "a CloudEvent with neither data nor dataref")
        matched = _S3_URI.fullmatch(uri)
        if matched is None:
            raise UnreadableDocument("schema", "dataref is not s3://bucket/key, percent-encoded")
        try:
            bucket, key, version_id = (part and percent_decoded(part) for part in matched.groups())
            named = _Referred.model_validate({"bucket": bucket, "key": key, "version_id": version_id})
        except ValidationError as error:
            raise schema_fault(error) from None
        except ValueError as error:
            raise UnreadableDocument("schema", f"dataref is {error}") from None
        return ImageEvent(
            id=self.attributes.id,
            dialect="cloudevents",
            action="enrich",
            index=0,
            bucket=named.bucket,
            key=named.key,
            version_id=version_or_none(named.version_id),
            event_time=self.time,
        )

    @property
    def time(self) -> str | None:
        try:
            return _MOMENT.validate_python(self.attributes.time)
        except ValidationError:
            return None

    def around(self, entry: Entry) -> Entry:
        """An entry of the data, as one of this envelope."""
        if not isinstance(entry, ImageEvent):
            return entry
        return replace(entry, dialect="cloudevents", event_time=entry.event_time or self.time)


def binary(value: bytes | None, headers: Headers) -> CloudEvent | None:
    """The event in binary mode; None: it is something else.

    Raises:
        UnreadableDocument: it is one, with a fault.
    """
    texts = _texts(headers)
    if "ce_specversion" not in texts:
        return None
    named = {name.removeprefix("ce_"): text for name, text in texts.items() if name.startswith("ce_")}
    attributes = _attributes({**named, "datacontenttype": texts.get("content-type")})
    return CloudEvent(attributes, _encoded(value, attributes))


def is_structured(headers: Headers) -> bool:
    """Whether headers declare structured mode; without them see `is_envelope`."""
    media_type = _texts(headers).get("content-type", "").lower()
    if not media_type.startswith("application/cloudevents"):
        return False
    if not _is_json(media_type):
        raise UnreadableDocument(
            "not-an-event", "a structured CloudEvent in another format than application/cloudevents+json"
        )
    return True


def is_envelope(doc: Document) -> bool:
    return "specversion" in doc and "schema" not in doc


def structured(doc: Document) -> CloudEvent:
    """Raises:
    UnreadableDocument: not a CloudEvent, or with data that can't be read.
    """
    attributes = _attributes(doc)
    if doc.get("data") is not None:
        return CloudEvent(attributes, _inline(doc["data"], attributes))
    if doc.get("data_base64") is not None:
        return CloudEvent(attributes, _encoded(_from_base64(doc["data_base64"]), attributes))
    return CloudEvent(attributes, None)


def _inline(data: Any, attributes: _Attributes) -> Document:
    if isinstance(data, dict):
        return data
    if isinstance(data, str):  # a producer that declares another type, or none, and encodes twice
        return document(data)
    raise UnreadableDocument("not-an-event", "the CloudEvent's data is not a JSON object")


def _attributes(named: Document) -> _Attributes:
    try:
        return _Attributes.model_validate(named)
    except ValidationError as error:
        raise schema_fault(error) from None


def _texts(headers: Headers) -> dict[str, str]:
    """Header values as text, the last of each name; names in lower case, as some clients capitalise them."""
    return {name.lower(): value.decode("utf-8", "replace") for name, value in headers if value is not None}


def _is_json(media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip().lower()
    return essence.endswith(("/json", "+json"))


def _encoded(data: bytes | None, attributes: _Attributes) -> Document | None:
    """The JSON object in `data`; None if `dataref` has to answer: `data` may be the image."""
    if not data:
        return None
    if not attributes.datacontenttype or _is_json(attributes.datacontenttype):
        return document(data)
    if attributes.dataref:
        return None
    raise UnreadableDocument("not-an-event", "the CloudEvent's data is not JSON; an image is referred to by dataref")


def _from_base64(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else b"!", validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableDocument("undecodable", "data_base64 is not base64") from None
