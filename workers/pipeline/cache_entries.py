"""What the cache's entries are called and how they are written. Anything that does not read back exactly is a miss.

Two levels (architecture: the cache). *Source*: a hash for each (bucket, key) with a field for each version id or
etag gives the content's hash and its facts. *Content*: the content's hash and what worked on it give the scores
above the floor, or a caption.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import orjson

from schemas.image_event import ImageEvent
from workers.ports import Captioner, Tagger
from workers.vocabulary import Caption, Facts, LabelScores, Subset

_PREFIX = "tagstream:1"
_SCORES = struct.Struct("<4sI")
_MAGIC = b"tss1"


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """What one outcome tells the cache: plain values, (hash, field) values, and hashes to forget before them."""

    values: Mapping[str, bytes] = field(default_factory=dict)
    fields: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    forget: tuple[str, ...] = ()


NOTHING = CacheWrite()


def source_hash(event: ImageEvent) -> str:
    return f"{_PREFIX}:source:{event.bucket}/{event.key}"


def source_field(version_id: str | None, etag: str | None) -> str | None:
    """The field of one version of an object; None when the event names neither, and there is no first level."""
    if version_id:
        return f"v:{version_id}"
    return f"e:{etag}" if etag else None


def sequencer_key(event: ImageEvent) -> str:
    return f"{_PREFIX}:sequencer:{event.bucket}/{event.key}"


def tagger_key(tagger: Tagger) -> str:
    """Names everything that a tagger's scores depend on besides the picture."""
    return _digest(tagger.digest, repr(tagger.transform), tagger.precision, repr(tagger.floor))


def captioner_key(captioner: Captioner) -> str:
    return _digest(captioner.digest, repr(captioner.transform), captioner.precision, captioner.options_digest)


def scores_key(sha256: str, tagger: str, subset: Subset | None = None) -> str:
    """Of the scores of all labels (that the tagger scores), or of a subset's: never one for the other."""
    return f"{_PREFIX}:scores:{sha256}:{tagger}" + (f":{subset.digest}" if subset is not None else "")


def caption_key(sha256: str, captioner: str, guide: str) -> str:
    return f"{_PREFIX}:caption:{sha256}:{captioner}:{_digest(guide)}"


def pack_facts(facts: Facts) -> bytes:
    return orjson.dumps(asdict(facts))


def unpack_facts(value: bytes | None) -> Facts | None:
    data = _json_object(value)
    if data is None or set(data) != {field.name for field in fields(Facts)}:
        return None
    numbers = ("size", "width", "height", "decode_bytes")
    texts = ("sha256", "etag", "last_modified", "format")
    if not all(type(data[name]) is int for name in numbers) or not all(type(data[name]) is str for name in texts):
        return None
    if not isinstance(data["version_id"], str | None):
        return None
    return Facts(**data)  # type: ignore[arg-type]  # every type was looked at above


def pack_scores(scores: LabelScores) -> bytes:
    ids = scores.label_ids.astype("<i4", copy=False).tobytes()
    values = scores.scores.astype("<f4", copy=False).tobytes()
    return _SCORES.pack(_MAGIC, len(scores.label_ids)) + ids + values


def unpack_scores(value: bytes | None, labels: int) -> LabelScores | None:
    """Scores as packed, for a tagger of so many labels."""
    if value is None or len(value) < _SCORES.size:
        return None
    magic, count = _SCORES.unpack_from(value)
    if magic != _MAGIC or len(value) != _SCORES.size + 8 * count:
        return None
    ids = np.frombuffer(value, "<i4", count, _SCORES.size).astype(np.int32)
    scores = np.frombuffer(value, "<f4", count, _SCORES.size + 4 * count).astype(np.float32)
    if count and (ids.min() < 0 or ids.max() >= labels or not np.isfinite(scores).all()):
        return None
    return LabelScores(ids, scores)


def pack_caption(caption: Caption) -> bytes:
    return orjson.dumps(asdict(caption))


def unpack_caption(value: bytes | None) -> Caption | None:
    data = _json_object(value)
    if data is None or set(data) != {"text", "score", "method"}:
        return None
    text, score, method = data["text"], data["score"], data["method"]
    if not isinstance(text, str) or not isinstance(method, str) or not isinstance(score, float | None):
        return None
    return Caption(text, score, method)


def _json_object(value: bytes | None) -> dict[str, object] | None:
    if value is None:
        return None
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
