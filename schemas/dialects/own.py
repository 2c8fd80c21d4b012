"""The own dialect, `image-event/1`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from ..options import Options
from ..text import Bucket, Key, Moment, Sequencer, Short, Version, version_or_none, visible
from .words import Document, ImageEvent, UnreadableDocument, quoted, schema_fault

SCHEMA = "image-event/1"


def unquoted(etag: object) -> object:
    """HTTP quotes an etag, notifications don't: here it never has quotes."""
    return etag.strip('"') if isinstance(etag, str) else etag


def whole(size: object) -> object:
    """To JSON Schema a number without a fraction is an integer, however it is written: 12.0 is 12."""
    return int(size) if isinstance(size, float) and size.is_integer() else size


Etag = Annotated[Short, BeforeValidator(unquoted), AfterValidator(visible)]


class ImageEventDocument(BaseModel):
    """An image to enrich, in this project's own words. Fields that are not named here are ignored."""

    model_config = ConfigDict(title="ImageEvent", frozen=True)

    schema_name: Literal["image-event/1"] = Field(alias="schema")
    id: Short = Field(description="The producer's own id of this event; the same when it is sent again.")
    bucket: Bucket
    key: Key = Field(description="The object's key as the store knows it, nothing escaped; at most 1,024 bytes.")
    version_id: Version | None = Field(
        default=None, description='Visible ASCII characters; "null", as S3 calls what has no version, counts as none.'
    )
    etag: Etag | None = Field(
        default=None,
        description="Read only this content; another one is skipped as superseded. Visible ASCII characters.",
    )
    size: Annotated[StrictInt, Field(ge=0, lt=2**63), BeforeValidator(whole)] | None = Field(
        default=None, description="Bytes."
    )
    sequencer: Sequencer | None = Field(
        default=None, description="Hexadecimal, growing with every change of one object, as S3 counts."
    )
    event_time: Moment | None = None
    options: Options = Options()


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
