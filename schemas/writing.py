"""An enriched image as plain JSON values: for a writer that has thousands a second to write.

Each function gives the fields of one model of `enriched_image`, in its order; what is left out there where it is null
is left out here. Nothing is checked: a writer checks values where they enter, and the models read the result back
(`read_output`). Parts that few images have come as models and are checked as such.
"""

# ruff: noqa: A002 - arguments have the names of the fields

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .dead_letter import Reason
from .enriched_image import CorrectedTags, Dialect, Embedding, HitOrMiss, Status
from .options import Options

Fields: TypeAlias = dict[str, Any]
"""A JSON object. Any writer of JSON takes it that writes tuples as arrays."""


def event_ref(
    *, id: str, dialect: Dialect | None, time: str | None, topic: str, partition: int, offset: int, index: int
) -> Fields:
    """An `EventRef`."""
    return {
        "id": id,
        "dialect": dialect,
        "time": time,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "index": index,
    }


def source(
    *,
    bucket: str,
    key: str,
    version_id: str | None,
    etag: str,
    sequencer: str | None,
    last_modified: str,
    sha256: str,
) -> Fields:
    """A `Source`."""
    return {
        "bucket": bucket,
        "key": key,
        "version_id": version_id,
        "etag": etag,
        "sequencer": sequencer,
        "last_modified": last_modified,
        "sha256": sha256,
    }


def image_facts(*, format: str, width: int, height: int, bytes: int) -> Fields:
    """An `ImageFacts`."""
    return {"format": format, "width": width, "height": height, "bytes": bytes}


def tag(
    *,
    name: str,
    score: float,
    label_id: int | None,
    translations: Mapping[str, str] | None = None,
    person: bool = False,
) -> Fields:
    """A `Tag`; that of a person where `person` is true."""
    fields: Fields = {"name": name, "score": score, "label_id": label_id}
    if translations is not None:
        fields["translations"] = translations
    if person:
        fields["source"] = "person"
    return fields


def caption_text(*, text: str, score: float | None, method: str, guided_by: Sequence[str]) -> Fields:
    """A `CaptionText`."""
    return {"text": text, "score": score, "method": method, "guided_by": guided_by}


def cache(
    *,
    source: HitOrMiss | None = None,
    tags: HitOrMiss | None = None,
    caption: HitOrMiss | None = None,
    embedding: HitOrMiss | None = None,
) -> Fields:
    """A `Cache`."""
    fields: Fields = {"source": source, "tags": tags, "caption": caption}
    if embedding is not None:
        fields["embedding"] = embedding
    return fields


def enriched_image(
    *,
    id: str,
    subject: str,
    version: int,
    status: Status,
    reason: Reason | None,
    event: Fields,
    source: Fields,
    image: Fields,
    tags: Sequence[Fields] = (),
    caption: Fields | None = None,
    embedding: Embedding | None = None,
    corrections: CorrectedTags | None = None,
    options: Options,
    models: Fields,
    thresholds: Fields,
    timings_ms: Mapping[str, float],
    produced_at: str,
    cache: Fields,
) -> Fields:
    """An `EnrichedImage`, whose record has the subject as its key."""
    fields: Fields = {
        "schema": "enriched-image/1",
        "id": id,
        "subject": subject,
        "document_id": subject,
        "version": version,
        "status": status,
        "reason": reason,
        "event": event,
        "source": source,
        "image": image,
        "tags": tags,
        "caption": caption,
    }
    if embedding is not None:
        fields["embedding"] = embedding.model_dump()
    if corrections is not None:
        fields["corrections"] = corrections.model_dump()
    fields["options"] = {"want": options.want, "guide_tags": options.guide_tags, "profile": options.profile}
    fields["models"] = models
    fields["thresholds"] = thresholds
    fields["timings_ms"] = timings_ms
    fields["produced_at"] = produced_at
    fields["cache"] = cache
    return fields
