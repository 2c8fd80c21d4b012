"""Keys and encoding of the cache's entries. An entry that does not decode exactly, or can't be published, is a miss:
any client may write to Redis.

Three levels. *Source*: a Redis hash for each (bucket, key), with a field for each version id or etag, also etag with
sequencer; its value is the content's SHA-256 and facts. *Content*: SHA-256 and model give the scores above the tagger's
floor, or a caption. *Verdict*: SHA-256 and the judge's name give the rejection.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Final, TypeAlias

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.dead_letter import DETAIL_MAX, Reason
from schemas.enriched_image import CaptionText, Sha256
from schemas.image_event import ImageEvent, newer
from schemas.text import Moment, version_or_none
from workers.errors import Rejected
from workers.ports import Captioner, Tagger
from workers.settings import DECODABLE
from workers.types import Caption, Facts, LabelScores

_FORMAT = "2"
"""Version of the entries' format."""
_SCORES = struct.Struct("<4sI")
_MAGIC = b"tss1"

_Positive: TypeAlias = Annotated[int, Field(ge=1, lt=2**63)]

_MAX_FACTS_BYTES = 16 * 1024
_MAX_CAPTION_BYTES = 64 * 1024
_MAX_VERDICT_BYTES = 4 * 1024
CERTAIN: Final[tuple[Reason, ...]] = (
    "not-an-image",
    "format-not-allowed",
    "broken-image",
    "too-many-pixels",
    "too-small",
    "too-complex",
    "decode-failed",
)
"""Rejections that depend on the bytes, the limits and the decoders alone. Rejections that a busy machine may cause
(`decode-timeout`, `decode-memory`, `kills-decoder`) are not cached."""


class _FactsEntry(BaseModel):
    """`Facts` as the cache stores them: only the fields that an event shows."""

    model_config = ConfigDict(strict=True, extra="forbid")

    sha256: Sha256
    etag: str
    version_id: str | None
    last_modified: Moment
    size: _Positive
    format: str
    width: _Positive
    height: _Positive
    decode_bytes: Annotated[int, Field(ge=0, lt=2**63)]


_SEQUENCER = re.compile(rb"[0-9A-Fa-f]{1,128}")
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
"""Control characters, which no caption of ours has and a terminal obeys. Tabs and line feeds are allowed."""


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """One outcome's cache writes: values, fields of Redis hashes, and Redis hashes to delete first.

    Args:
        content: SHA-256 of the content that the fields describe.
    """

    values: Mapping[str, bytes] = field(default_factory=dict)
    fields: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    content: str = ""


NOTHING = CacheWrite()


def source_hash(store: str, event: ImageEvent) -> str:
    """Args:
    store: the object store's endpoint; two stores may have buckets of the same name.
    """
    return f"{_FORMAT}:source:{store}/{event.bucket}/{event.key}"


def source_fields(event: ImageEvent) -> tuple[str, ...]:
    """Cache fields of the content that an event names, preferred first; may be empty.

    An etag is an MD5: two contents may share an etag, but not a sequencer. The version id "null" does not count: its
    object can be overwritten.
    """
    if version_or_none(event.version_id):
        return (f"v:{event.version_id}",)
    if not event.etag:
        return ()
    alone = f"e:{event.etag}"
    return (f"{alone}:{event.sequencer}", alone) if event.sequencer else (alone,)


def is_of(facts: Facts, event: ImageEvent) -> bool:
    """Whether the facts' version id and etag match the event's.

    An unknown version id or etag matches.
    """
    etag, version_id = event.etag, event.version_id
    same_version = None in (version_id, facts.version_id) or version_id == facts.version_id
    return same_version and (etag is None or etag.strip('"') == facts.etag)


def is_newer(sequencer: str, event: ImageEvent) -> bool:
    """Whether this sequencer is newer than the event's; False for different lengths.

    Different lengths mean that the bucket moved from another kind of store."""
    other = event.sequencer
    return other is not None and len(sequencer) == len(other) and newer(sequencer, other)


def sequencer_key(store: str, event: ImageEvent) -> str:
    return f"{_FORMAT}:sequencer:{store}/{event.bucket}/{event.key}"


def unpack_sequencer(value: bytes | None) -> str | None:
    return value.decode() if value is not None and _SEQUENCER.fullmatch(value) else None


def tagger_key(tagger: Tagger) -> str:
    """Identifies everything that a tagger's scores depend on besides the image."""
    return digest(tagger.digest, repr(tagger.transform), tagger.precision, repr(tagger.floor))


def captioner_key(captioner: Captioner) -> str:
    return digest(captioner.digest, repr(captioner.transform), captioner.precision, captioner.options_digest)


def result_key(kind: str, sha256: str, *made_by: str) -> str:
    """Cache key of a result: its kind, content hash and other dependencies."""
    return ":".join((_FORMAT, kind, sha256, *made_by))


def content_of(key: str) -> str:
    """The content hash in the key of a result or verdict."""
    return "".join(key.split(":", 3)[2:3])


def scaled_key(key: str, scale: int) -> str:
    """The key of a result computed from pixels decoded at 1/scale."""
    return f"{key}:scale=1/{scale}"


def verdict_key(sha256: str, judge: str) -> str:
    """The key of the rejection of these bytes by this judge: limits and versions."""
    return f"{_FORMAT}:verdict:{sha256}:{digest(judge)}"


def pack_verdict(verdict: Rejected) -> bytes:
    return orjson.dumps({"reason": verdict.reason, "detail": verdict.detail[:DETAIL_MAX]})


def unpack_verdict(value: bytes | None) -> Rejected | None:
    data = _json_object(value, _MAX_VERDICT_BYTES)
    if data is None or set(data) != {"reason", "detail"}:
        return None
    reason, detail = data["reason"], data["detail"]
    if not isinstance(detail, str) or len(detail) > DETAIL_MAX:
        return None
    return next((Rejected("decode", each, detail) for each in CERTAIN if each == reason), None)


def pack_facts(facts: Facts) -> bytes:
    return orjson.dumps(facts)


def unpack_facts(value: bytes | None) -> Facts | None:
    if value is None or len(value) > _MAX_FACTS_BYTES:
        return None
    try:
        entry = _FactsEntry.model_validate_json(value)
    except ValidationError:
        return None
    return Facts(**vars(entry)) if entry.format in DECODABLE else None


def pack_scores(scores: LabelScores) -> bytes:
    ids = scores.label_ids.astype("<i4", copy=False).tobytes()
    values = scores.scores.astype("<f4", copy=False).tobytes()
    return _SCORES.pack(_MAGIC, len(scores.label_ids)) + ids + values


def unpack_scores(value: bytes | None, labels: int) -> LabelScores | None:
    """Unpack scores for a tagger with this many labels; None if invalid."""
    if value is None or len(value) < _SCORES.size:
        return None
    magic, count = _SCORES.unpack_from(value)
    if magic != _MAGIC or len(value) != _SCORES.size + 8 * count:
        return None
    ids = np.frombuffer(value, "<i4", count, _SCORES.size).astype(np.int32)
    scores = np.frombuffer(value, "<f4", count, _SCORES.size + 4 * count).astype(np.float32)
    # `count_nonzero` takes a fifth of `np.all`'s time for small arrays. Comparisons with a NaN are false.
    if np.count_nonzero((scores >= 0) & (scores <= 1)) < count:
        return None
    if count and (ids[0] < 0 or ids[-1] >= labels or np.count_nonzero(ids[1:] > ids[:-1]) < count - 1):
        return None
    return LabelScores(ids, scores)


def pack_caption(caption: Caption) -> bytes:
    return orjson.dumps(caption)


def unpack_caption(value: bytes | None) -> Caption | None:
    data = _json_object(value, _MAX_CAPTION_BYTES)
    if data is None or set(data) != {field.name for field in fields(Caption)}:
        return None
    try:
        caption = CaptionText.model_validate(data, strict=True)
    except ValidationError:
        return None
    if _CONTROLS.search(caption.text + caption.method):
        return None
    return Caption(caption.text, caption.score, caption.method)


def _json_object(value: bytes | None, max_bytes: int) -> dict[str, object] | None:
    if value is None or len(value) > max_bytes:
        return None
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def digest(*parts: str) -> str:
    """A short hash of these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
