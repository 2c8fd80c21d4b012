"""Records of the enriched topic, read as rows of the tables."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_type_hints

import numpy as np
import orjson
from pgvector import HalfVector
from psycopg.types.json import Json
from pydantic import BaseModel

from schemas import enriched_image
from schemas.enriched_image import EnrichedImage, ImageFacts, Retraction, output_of, version_key
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_BYTES_MAX, SCORES_HEADER, StoredEmbedding
from schemas.text import Headers, first_fault
from schemas.version import order
from tagstream_index.results import MARK, WORDS_CHARS, words_of
from workers.types import ReadRecord, Record

Text: TypeAlias = Annotated[str | None, "text"]
Whole: TypeAlias = Annotated[int | None, "bigint"]
Small: TypeAlias = Annotated[int | None, "smallint"]
Degrees: TypeAlias = Annotated[float | None, "float8"]
Document: TypeAlias = Annotated[dict[str, Any] | None, "jsonb"]
Data: TypeAlias = bytes
"""`Row.bytes` hides the type's own name."""

DIMENSIONS_MAX: Final = 4_000
"""The most that an HNSW index of halfvec takes."""
NAME_BYTES_MAX: Final = 1_000
"""Of a tag's name: PostgreSQL refuses a larger one in an index."""
_BIGINT: Final = 2**63
_CONNECTORS: Final = "_/.~-+@:=&%#"
_TANGLED: Final = 10_000
"""Characters times connectors between two spaces. PostgreSQL's parser needs up to 30 ns for each in some texts."""
_PROVENANCE: Final = ("id", "status", "reason", "event", "models", "thresholds", "options")

_FIELDS: Final = {
    name
    for model in vars(enriched_image).values()
    if isinstance(model, type) and issubclass(model, BaseModel)
    for name in model.model_fields
}

_UNSTORABLE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
"""Group 1: an escape in JSON that PostgreSQL can't store. Pairs of surrogates and other escapes are passed over."""


class Vector(NamedTuple):
    """An image's embedding: float16, of length 1."""

    space: str
    dimensions: int
    model: str
    data: bytes

    def value(self) -> HalfVector:
        return HalfVector(np.frombuffer(self.data, dtype="<f2"))


class Row(NamedTuple):
    """A record as columns of the staging table, with PostgreSQL's types.

    Args:
        of_version: the record retracts one version of the object.
        document: hash of the object's version.
        outcome: the record's value as text.
        result_words: of each kind behind its name between two `MARK`.
        flaws: `characters`: some were replaced; `embedding`: it is left out, unreadable or too large; `results`: the
            words of some are left out.
    """

    subject: Annotated[str, 'text collate "C"']
    bucket: Annotated[str, "text"]
    key: Annotated[str, "text"]
    version: Annotated[int, "bigint"]
    published: Annotated[bool, "boolean"]
    produced_at: Annotated[int, "bigint"]
    gone: Annotated[bool, "boolean"]
    of_version: Annotated[bool, "boolean"] = False
    document: Annotated[Data | None, "bytea"] = None
    version_id: Text = None
    etag: Text = None
    sha256: Text = None
    last_modified: Annotated[datetime | None, "timestamptz"] = None
    format: Text = None
    width: Whole = None
    height: Whole = None
    bytes: Whole = None
    taken_local: Annotated[datetime | None, "timestamp"] = None
    taken_offset: Small = None
    orientation: Small = None
    phash: Whole = None
    thumbhash: Annotated[Data | None, "bytea"] = None
    latitude: Degrees = None
    longitude: Degrees = None
    tags: Annotated[list[dict[str, Any]] | None, "jsonb"] = None
    names: Annotated[list[str] | None, "text[]"] = None
    scores: Annotated[list[float] | None, "real[]"] = None
    caption: Text = None
    corrections: Document = None
    results: Document = None
    result_words: Text = None
    provenance: Document = None
    outcome: Annotated[Json | None, "json"] = None
    stored_scores: Annotated[Data | None, "bytea"] = None
    vector: Vector | None = None
    flaws: tuple[str, ...] = ()


_HINTS: Final = get_type_hints(Row, include_extras=True).items()
OF_ROW: Final = {name: hint.__metadata__[0] for name, hint in _HINTS if name not in ("vector", "flaws")}
"""Columns of the staging table that are fields of `Row`, with their types."""
OF_VECTOR: Final = {"space": "integer", "model": "text", "vector": "halfvec"}
"""Its last columns; `space` is the number of the vector's table."""
_NAMES: Final = [*OF_ROW]
HEAD: Final = _NAMES[: _NAMES.index("of_version")]
"""Columns of the table `image`, also of a removed image."""
CONTENT: Final = _NAMES[_NAMES.index("version_id") : _NAMES.index("outcome")]
"""The other columns of `image`: null where the image is removed."""
values_of: Final = attrgetter(*OF_ROW)
"""The values of a row, in the order of `OF_ROW`."""


class Passed(NamedTuple):
    """A record that changes nothing: a `tombstone`, or `unreadable` and why."""

    kind: Literal["tombstone", "unreadable"]
    why: str = ""


def read_record(record: Record | ReadRecord) -> Row | Passed:
    """The row of a record, or the reason against one."""
    if record.unreadable is not None:
        return Passed("unreadable", f"{record.unreadable.reason}: {record.unreadable.detail}")
    if record.value is None:
        return Passed("tombstone")
    try:
        return read_row(record.value, record.headers)
    except ValueError as error:
        return Passed("unreadable", str(error))


def read_row(value: bytes, headers: Headers) -> Row:
    """The row of a record of the enriched topic.

    Raises:
        ValueError: the value is no outcome; the message contains nothing of the record.
    """
    clean = value
    if b"\\u" in value:
        clean = _UNSTORABLE.sub(lambda escape: escape[0] if escape[1] is None else b"\\ufffd", value)
    changed = clean != value
    try:
        raw = orjson.loads(clean)
        orjson.dumps(raw)  # reading goes deeper than writing, and fields of later versions are kept as they are
        output = output_of(raw)
    except TypeError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(first_fault(error, _FIELDS)) from None
    if not isinstance(output, EnrichedImage | Retraction):
        raise ValueError("a skip, which the enriched topic has not")
    if changed and "\ufffd" in output.subject:
        raise ValueError("the key has characters that no object's key has")
    flaws = ("characters",) if changed else ()
    if isinstance(output, Retraction):
        return _retracted(output, flaws)
    return _enriched(output, raw, clean.decode(), headers, flaws)


def _header(headers: Headers, wanted: str) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None) if headers else None


def _document(bucket: str, key: str, version_id: str | None) -> bytes | None:
    """What an object's version is remembered by; an id may be longer than an index takes."""
    return None if version_id is None else hashlib.sha256(version_key(bucket, key, version_id)).digest()


def _retracted(output: Retraction, flaws: tuple[str, ...]) -> Row:
    place, of_version = output.source, output.scope == "version"
    version_id = place.version_id if of_version else None
    document = _document(place.bucket, place.key, version_id)
    return Row(output.subject, place.bucket, place.key, *order(output), of_version, document, version_id, flaws=flaws)


def _enriched(output: EnrichedImage, raw: dict[str, Any], text: str, headers: Headers, flaws: tuple[str, ...]) -> Row:
    place, facts, scores = output.source, output.image, _header(headers, SCORES_HEADER)
    vector, bad = _vector(output, headers)
    read, labels = place.read or facts, (tag.label_id or 0 for tag in output.tags)
    if max(facts.width, facts.height, facts.bytes, read.width, read.height, *labels) >= _BIGINT:
        raise ValueError("a number is too large")
    names = [tag.name for tag in output.tags]
    if any(len(name.encode()) > NAME_BYTES_MAX for name in names if len(name) > NAME_BYTES_MAX // 4):
        raise ValueError(f"tags: a name has more than {NAME_BYTES_MAX:,} bytes")
    if _is_tangled(_texts(output, names)):
        raise ValueError("a text has too many characters without a space")
    results = raw.get("results")
    words, lost = _words(results or {})
    provenance = {name: raw[name] for name in _PROVENANCE if raw.get(name) is not None}
    if output.caption is not None:
        provenance["caption"] = {name: said for name, said in raw["caption"].items() if name != "text"}
    if place.read is not None:
        provenance["read"] = place.read.model_dump(mode="json")
    return Row(
        output.subject,
        place.bucket,
        place.key,
        *order(output),
        document=_document(place.bucket, place.key, place.version_id),
        version_id=place.version_id,
        etag=place.etag,
        sha256=place.sha256,
        last_modified=datetime.fromisoformat(place.last_modified),
        format=facts.format,
        width=facts.width,
        height=facts.height,
        bytes=facts.bytes,
        **_of_picture(facts),
        tags=raw["tags"],
        names=names,
        scores=[tag.score for tag in output.tags],
        caption=None if output.caption is None else output.caption.text,
        corrections=raw.get("corrections"),
        results=results,
        result_words=words,
        provenance=provenance,
        outcome=Json(text, dumps=str),
        stored_scores=scores if scores is not None and len(scores) <= SCORES_BYTES_MAX else None,
        vector=vector,
        flaws=(*flaws, *bad, *lost),
    )


def _of_picture(facts: ImageFacts) -> dict[str, Any]:
    """Columns of facts that older outcomes lack."""
    taken = None if facts.taken_at is None else datetime.fromisoformat(facts.taken_at)
    offset = None if taken is None else taken.utcoffset()
    return {
        "taken_local": taken and taken.replace(tzinfo=None),
        "taken_offset": None if offset is None else offset // timedelta(minutes=1),
        "orientation": facts.orientation,
        "phash": facts.phash and int.from_bytes(bytes.fromhex(facts.phash), "big", signed=True),
        "thumbhash": facts.thumbhash and base64.b64decode(facts.thumbhash),
        "latitude": facts.place and facts.place.latitude,
        "longitude": facts.place and facts.place.longitude,
    }


def _texts(output: EnrichedImage, names: list[str]) -> list[str]:
    texts = ["" if output.caption is None else output.caption.text, *names]
    for tag in output.tags:
        texts += [*(tag.translations or {}).values(), *(tag.parents or ())]
    return texts


def _words(results: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The words of results, or their flaw."""
    found, room, flawed = "", WORDS_CHARS, False
    for name, result in sorted(results.items()):
        text = words_of(name, result)
        if text is None or _is_tangled([text]):
            flawed = True
        elif text := text[:room]:
            found += f"{MARK}{name}{MARK}{text}"
            room -= len(text)
    return found or None, ("results",) if flawed else ()


def _is_tangled(texts: Sequence[str]) -> bool:
    """Whether PostgreSQL would take long to find the words of these texts."""
    if max(map(len, texts)) <= 100:
        return False
    runs = (run for text in texts if len(text) > 100 for run in text.split())
    return any(len(run) * sum(map(run.count, _CONNECTORS)) > _TANGLED for run in runs)


def _vector(output: EnrichedImage, headers: Headers) -> tuple[Vector | None, tuple[str, ...]]:
    """The embedding of the event or header, or its flaw."""
    shown, stored = output.embedding, _header(headers, EMBEDDING_HEADER)
    if shown is None and stored is None:
        return None, ()
    with suppress(ValueError):
        if shown is not None:  # an event is checked as a header is
            stored = StoredEmbedding(shown.model, shown.space, base64.b64decode(shown.data, validate=True)).encode()
        found = StoredEmbedding.decode(stored)
        if found.dimensions <= DIMENSIONS_MAX:
            return Vector(found.space, found.dimensions, found.model, found.data), ()
    return None, ("embedding",)
