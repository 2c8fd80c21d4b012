"""What lies in the cache's entries, and in the headers with stored results."""

from collections.abc import Iterator

import numpy as np
import orjson

from schemas.enriched_image import CaptionText, ImageFacts, Tag
from schemas.stored_scores import StoredEmbedding, StoredScores
from tests.fuzz.fuzzer import Target
from tests.fuzz.mutators import Parts
from workers.facts import pack_facts, unpack_facts
from workers.pipeline import cache_entries as entries
from workers.pipeline.facts import fields_of
from workers.types import Caption, Facts, LabelScores, PictureFacts

LABELS = 10
FACTS = Facts("a" * 64, "e", "v1", "2026-01-02T03:04:05Z", 1000, "jpeg", 40, 30, 3600)


PICTURE = PictureFacts("2026-05-03T17:04:05Z", 6, "0123456789abcdef", "AAAAAAAA", (52.5, -13.4), "exif-broken")


def cached() -> Iterator[Parts]:
    yield (b"facts", entries.pack_facts(FACTS))
    yield (b"facts", orjson.dumps({**orjson.loads(entries.pack_facts(FACTS)), "version_id": None}))
    yield (b"caption", entries.pack_caption(Caption("a dog", -0.5, "beam")))
    yield (b"caption", entries.pack_caption(Caption("a dog", None, "template")))
    yield (b"picture", pack_facts(PICTURE))
    yield (b"picture", pack_facts(PictureFacts(thumbhash=PICTURE.thumbhash)))
    for count in (0, 1, LABELS):
        scores = LabelScores(np.arange(count, dtype=np.int32), np.linspace(0, 1, count).astype(np.float32))
        yield (b"scores", entries.pack_scores(scores))


def unpacked(parts: Parts) -> str:
    kind, value = (*parts, b"", b"")[:2]
    match kind:
        case b"facts":
            facts = entries.unpack_facts(value)
            if facts is not None:
                ImageFacts(format=facts.format, width=facts.width, height=facts.height, bytes=facts.size)
                assert facts.decode_bytes >= 0
                return "facts"
        case b"picture":
            picture = unpack_facts(value, "place")
            if picture is not None:
                ImageFacts(format="jpeg", width=1, height=1, bytes=1, **fields_of(picture))
                return "facts of a picture"
        case b"caption":
            caption = entries.unpack_caption(value)
            if caption is not None:
                CaptionText(text=caption.text, score=caption.score, method=caption.method)
                return "a caption"
        case _:
            scores = entries.unpack_scores(value, LABELS)
            if scores is not None:
                assert (np.diff(scores.label_ids) > 0).all()
                for label, score in zip(scores.label_ids.tolist(), scores.scores.tolist(), strict=True):
                    Tag(name="x", score=score, label_id=label)
                return "scores"
    return "a miss"


def stored() -> Iterator[Parts]:
    """What kind of header it is, and its value."""
    for count in (0, 1, LABELS):
        pairs = tuple((label, 1 - label / 16) for label in range(count))
        yield (b"scores", StoredScores("a" * 64, "b" * 16 if count else None, "fp32", 0.25, pairs).encode())
    yield (b"embedding", StoredEmbedding("a" * 64, "clip", np.array([0.6, 0.8], "<f2").tobytes()).encode())


def decoded(parts: Parts) -> str:
    kind, value = (*parts, b"", b"")[:2]
    try:
        found = (StoredEmbedding if kind == b"embedding" else StoredScores).decode(value)
    except ValueError:
        return "unreadable"
    assert found.encode() == value
    return type(found).__name__


TARGETS = (Target("cache-entries", cached, unpacked), Target("stored-results", stored, decoded))
