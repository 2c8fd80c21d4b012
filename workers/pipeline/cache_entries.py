"""Keys and values of the cache. docs/design/cache.md lists them.

Any client may write to Redis. So a value counts as a miss unless it decodes exactly and could be published.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from workers.types import Caption, Facts, LabelScores, Original

_FORMAT = "2"
"""The version of the format."""
_SCORES = struct.Struct("<4sI")
_MAGIC = b"tss1"

_Positive: TypeAlias = Annotated[int, Field(ge=1, lt=2**63)]

_MAX_FACTS_BYTES = 16 * 1024
_MAX_CAPTION_BYTES = 64 * 1024
_CAPTION = ("text", "score", "method")
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
"""Rejections that depend only on the bytes. A busy machine can cause others, such as `decode-timeout`."""


class _FactsEntry(BaseModel):
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
    original: Original | None = None


_SEQUENCER = re.compile(rb"[0-9A-Fa-f]{1,128}")
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
"""Control characters, except tabs and line feeds: a terminal would obey them."""


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """The cache writes of one outcome.

    Args:
        fields: values by (key of a Redis hash, field).
        forget: keys of Redis hashes to delete first.
        content: SHA-256 of the image that `fields` describe.
    """

    values: Mapping[str, bytes] = field(default_factory=dict)
    fields: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    content: str = ""


NOTHING = CacheWrite()


def source_hash(store: str, event: ImageEvent) -> str:
    """The key of the Redis hash with an object's facts."""
    return f"{_FORMAT}:source:{store}/{event.bucket}/{event.key}"


def source_fields(event: ImageEvent) -> tuple[str, ...]:
    """Fields of the facts that an event names, the most specific first.

    Two contents can have the same etag, an MD5. So an event with a sequencer reads the field with etag and sequencer.
    The version id "null" is ignored, because its object can be overwritten.
    """
    if version_or_none(event.version_id):
        return (f"v:{event.version_id}",)
    if not event.etag:
        return ()
    alone = f"e:{event.etag}"
    return (f"{alone}:{event.sequencer}", alone) if event.sequencer else (alone,)


def is_of(facts: Facts, event: ImageEvent) -> bool:
    """Whether the facts fit the event: no known version id or etag differs."""
    etag, version_id = event.etag, event.version_id
    same_version = None in (version_id, facts.version_id) or version_id == facts.version_id
    return same_version and (etag is None or etag.strip('"') == facts.etag)


def is_newer(sequencer: str, event: ImageEvent) -> bool:
    """Whether this sequencer is newer than the event's.

    Sequencers of different lengths come from different stores, and are not compared.
    """
    other = event.sequencer
    return other is not None and len(sequencer) == len(other) and newer(sequencer, other)


def sequencer_key(store: str, event: ImageEvent) -> str:
    return f"{_FORMAT}:sequencer:{store}/{event.bucket}/{event.key}"


def subject_prefixes(store: str) -> tuple[str, str]:
    """What stands before `bucket/key` in the keys of source and sequencer."""
    return f"{_FORMAT}:source:{store}/", f"{_FORMAT}:sequencer:{store}/"


def unpack_sequencer(value: bytes | None) -> str | None:
    return value.decode() if value is not None and _SEQUENCER.fullmatch(value) else None


def tagger_key(tagger: Tagger) -> str:
    """A hash of everything besides the image that changes a tagger's scores."""
    return digest(tagger.digest, repr(tagger.transform), tagger.precision, repr(tagger.floor))


def captioner_key(captioner: Captioner) -> str:
    return digest(captioner.digest, repr(captioner.transform), captioner.precision, captioner.options_digest)


def result_key(kind: str, sha256: str, *made_by: str) -> str:
    """The key of a result: its kind, the SHA-256 of the image, and further parts."""
    return ":".join((_FORMAT, kind, sha256, *made_by))


def index_hash(sha256: str) -> str:
    """The hash whose fields are the keys of a content's results."""
    return result_key("results", sha256)


def content_of(key: str) -> str:
    """The SHA-256 in the key of a result or rejection."""
    return "".join(key.split(":", 3)[2:3])


def verdict_key(sha256: str, judge: str) -> str:
    """The key of a rejection; `judge` names limits and versions."""
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
    fields = {name: getattr(facts, name) for name in _FactsEntry.model_fields}
    if facts.original is None:
        del fields["original"]  # older workers know no such field
    return orjson.dumps(fields)


def unpack_facts(value: bytes | None) -> Facts | None:
    if value is None or len(value) > _MAX_FACTS_BYTES:
        return None
    try:
        entry = _FactsEntry.model_validate_json(value)
    except ValidationError:
        return None
    hides = entry.original is not None and _hides(entry.original)
    return Facts(**vars(entry)) if entry.format in DECODABLE and not hides else None


def _hides(original: Original) -> bool:
    """Whether it has half a size, or facts that were not wanted."""
    told, mode = original.told, original.mode
    unwanted = told is not None and (mode == "off" or (told.place is not None and mode != "place"))
    return unwanted or len({bool(original.format), bool(original.width), bool(original.height)}) > 1


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
    # For small arrays, `count_nonzero` takes a fifth of the time of `np.all`. Comparisons with NaN are false.
    if np.count_nonzero((scores >= 0) & (scores <= 1)) < count:
        return None
    if count and (ids[0] < 0 or ids[-1] >= labels or np.count_nonzero(ids[1:] > ids[:-1]) < count - 1):
        return None
    return LabelScores(ids, scores)


def pack_caption(caption: Caption) -> bytes:
    """Without its usage: a hit costs nothing."""
    model = {} if caption.model is None else {"model": caption.model}
    return orjson.dumps({**{name: getattr(caption, name) for name in _CAPTION}, **model})


def unpack_caption(value: bytes | None) -> Caption | None:
    data = _json_object(value, _MAX_CAPTION_BYTES)
    if data is None or data.keys() - {"model"} != {*_CAPTION}:
        return None
    try:
        caption = CaptionText.model_validate(data, strict=True)
    except ValidationError:
        return None
    if _CONTROLS.search(caption.text + caption.method + (caption.model or "")):
        return None
    return Caption(caption.text, caption.score, caption.method, caption.model)


def _json_object(value: bytes | None, max_bytes: int) -> dict[str, object] | None:
    if value is None or len(value) > max_bytes:
        return None
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
