"""Documents that the tests share."""

import json
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from schemas.enriched_image import (
    Cache,
    CaptionText,
    EnrichedImage,
    EventRef,
    GoneSource,
    ImageFacts,
    ModelRef,
    Models,
    Retraction,
    Skip,
    Source,
    Tag,
    Thresholds,
)
from schemas.image_event import BadEvent, Ignored, ImageEvent, parse_message
from schemas.text import Headers

DATA = Path(__file__).parent / "data"
AWS: dict[str, Any] = json.loads((DATA / "aws.json").read_text())
MINIO: list[dict[str, Any]] = json.loads((DATA / "minio_notifications.json").read_text())

AWKWARD = [
    "a b.jpg",
    "a+b.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a%2Bb c.jpg",
    "ü/日本/🙂.jpg",
    "deep/er//x.jpg",
    "/leading.jpg",
    "?versionId=1#x&y=;.jpg",
    "line\nbreak.jpg",
    "x" * 1024,
]

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests: the first text takes seconds on a busy machine, and that is no finding."""

keys = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
) | st.sampled_from(AWKWARD)
"""Object keys: any characters that UTF-8 can hold, except NUL."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def parse(value: bytes | dict[str, Any] | None, headers: Headers = ()) -> tuple[ImageEvent | Ignored | BadEvent, ...]:
    encoded = json.dumps(value).encode() if isinstance(value, dict) else value
    return parse_message(encoded, headers, topic="images", partition=3, offset=17)


def event(value: dict[str, Any], headers: Headers = ()) -> ImageEvent:
    (entry,) = parse(value, headers)
    assert isinstance(entry, ImageEvent), entry
    return entry


def fault(value: bytes | dict[str, Any] | None, headers: Headers = ()) -> BadEvent:
    (entry,) = parse(value, headers)
    assert isinstance(entry, BadEvent), entry
    return entry


def own(**fields: Any) -> dict[str, Any]:
    return {"schema": "image-event/1", "id": "evt-1", "bucket": "photos", "key": "a.jpg"} | fields


def notification(*names: str, key: str = "a.jpg", **fields: Any) -> dict[str, Any]:
    object_ = {"key": quote_plus(key)} | fields
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "eventTime": "2026-01-02T03:04:05.678Z",
                "eventName": name,
                "s3": {"bucket": {"name": "photos"}, "object": object_},
            }
            for name in names
        ]
    }


EVENT = EventRef(
    id="18EB1FF02124DBCA",
    dialect="s3",
    time="2026-11-24T23:46:32.646Z",
    topic="images",
    partition=3,
    offset=17,
    index=0,
)
TAGGER = ModelRef(name="compact", digest="c" * 64, precision="bf16")
CAPTIONER = ModelRef(name="template", digest="d" * 64, precision="fp32")
VERSION = 1_795_563_993_000_000


def enriched(**fields: Any) -> EnrichedImage:
    values: dict[str, Any] = {
        "id": "e" * 64,
        "subject": "photos/a.jpg",
        "version": VERSION,
        "status": "complete",
        "event": EVENT,
        "source": Source(
            bucket="photos",
            key="a.jpg",
            etag="336311a016184326ddbdd61edd4eeb52",
            sequencer="18EB1FF02124DBCA",
            last_modified="2026-11-24T23:46:32Z",
            sha256="a" * 64,
        ),
        "image": ImageFacts(format="jpeg", width=640, height=480, bytes=12345),
        "tags": (
            Tag(name="dog", score=0.9, label_id=7, translations={"zh": "狗"}, parents=("canine", "animal")),
            Tag(name="grass", score=0.5, label_id=2),
        ),
        "caption": CaptionText(text="a dog on grass", score=None, method="template", guided_by=("dog", "grass")),
        "models": Models(tagger=TAGGER, captioner=CAPTIONER),
        "thresholds": Thresholds(profile="default", digest="0123456789abcdef"),
        "timings_ms": {"fetch": 1.5, "decode": 3.25},
        "produced_at": "2026-11-24T23:46:33.001002Z",
        "cache": Cache(source="miss", tags="miss", caption="hit"),
    }
    return _keyed(EnrichedImage(**(values | fields)))


def retraction(**fields: Any) -> Retraction:
    values: dict[str, Any] = {
        "subject": "photos/a.jpg",
        "version": VERSION,
        "event": EVENT,
        "source": GoneSource(bucket="photos", key="a.jpg", version_id="v1", sequencer="18EB1FF02124DBCA"),
        "produced_at": "2026-11-24T23:46:33Z",
    }
    return _keyed(Retraction(**(values | fields)))


Keyed = TypeVar("Keyed", EnrichedImage, Retraction)


def _keyed(output: Keyed) -> Keyed:
    """As a worker writes it: its record's key is in it."""
    return output.model_copy(update={"document_id": output.message_key.decode()})


def skip(**fields: Any) -> Skip:
    values: dict[str, Any] = {"event": EVENT, "subject": "photos/a.jpg", "reason": "stale"}
    return Skip(**(values | fields))
