"""The own dialect, `image-event/1`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..options import Options
from ..text import Bucket, EventEtag, EventSequencer, EventSize, EventTime, EventVersion, Key, Short, version_or_none
from .words import Document, ImageEvent, UnreadableDocument, quoted, schema_fault

SCHEMA = "image-event/1"


def _without_nulls(options: object) -> object:
    """The object without null fields, which some software writes for absent ones."""
    if isinstance(options, dict):
        return {name: value for name, value in options.items() if value is not None}
    return {} if options is None else options


class ImageEventDocument(BaseModel):
    """An image to enrich, in this project's own words; at most 64 KiB. Fields that are not named here are ignored.

    An etag, size, sequencer or event_time that is not as written here counts as absent.
    """

    model_config = ConfigDict(title="ImageEvent", frozen=True)

    schema_name: Literal["image-event/1"] = Field(alias="schema")
    id: Short = Field(description="The producer's own id of this event; the same when it is sent again.")
    bucket: Bucket
    key: Key = Field(description="The object's key as the store knows it, nothing escaped; at most 1,024 bytes.")
    version_id: EventVersion = Field(
        default=None, description='Visible ASCII characters; "null", the S3 name for no version, counts as absent.'
    )
    etag: EventEtag = Field(
        default=None,
        description="Read only this content; another one is skipped as superseded. Visible ASCII characters.",
    )
    size: EventSize = Field(default=None, description="Bytes.")
    sequencer: EventSequencer = Field(
        default=None, description="Hexadecimal, growing with every change of one object, as S3 counts."
    )
    event_time: EventTime = None
    options: Annotated[Options, BeforeValidator(_without_nulls)] = Options()


def is_own(document: Document) -> bool:
    """Whether it names this dialect, in whatever version."""
    schema = document.get("schema")
    return isinstance(schema, str) and schema.startswith("image-event/")


def read(document: Document, index: int) -> ImageEvent:
    """Raises:
    UnreadableDocument: not as the schema says.
    """
    if document["schema"] != SCHEMA:
        raise UnreadableDocument("schema", f"schema is {quoted(document['schema'])}; this version reads {SCHEMA}")
    try:
        event = ImageEventDocument.model_validate(document)
    except ValidationError as error:
        raise schema_fault(error) from None
    return ImageEvent(
        id=event.id,
        dialect="own",
        action="enrich",
        index=index,
        bucket=event.bucket,
        key=event.key,
        version_id=version_or_none(event.version_id),
        etag=event.etag,
        size=event.size,
        sequencer=event.sequencer,
        event_time=event.event_time,
        options=event.options,
    )
