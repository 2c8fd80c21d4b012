"""Answers as a worker would publish them."""

import json
from pathlib import Path
from typing import Any

from schemas.dead_letter import DeadLetter, Failure
from schemas.enriched_image import EnrichedImage, Retraction, read_output
from tagstream_testing.local.demo_watch import Answer, Row

EVENT = {"id": "1", "dialect": "s3", "time": None, "topic": "images", "partition": 0, "offset": 7, "index": 0}


def enriched(key: str = "cat.png", **changes: Any) -> EnrichedImage:
    document: dict[str, Any] = {
        "schema": "enriched-image/1",
        "id": "0" * 64,
        "subject": f"photos/{key}",
        "status": "complete",
        "event": EVENT,
        "source": {
            "bucket": "photos",
            "key": key,
            "etag": "e",
            "last_modified": "2026-11-25T00:00:00Z",
            "sha256": "0" * 64,
        },
        "image": {"format": "png", "width": 40, "height": 30, "bytes": 100},
        "tags": [{"name": "tabby cat", "score": 0.62, "label_id": 1}, {"name": "sofa", "score": 0.31, "label_id": 2}],
        "caption": {"text": "a picture of a tabby cat", "method": "template"},
        "models": {"tagger": {"name": "compact", "digest": "f" * 64, "precision": "fp32"}},
        "thresholds": {"profile": "default", "digest": "0" * 64},
        "timings_ms": {"wait-fetch": 1.0, "fetch": 10.0, "wait-device": 4.0, "annotate": 25.0},
        "produced_at": "2026-11-25T00:00:01Z",
        "cache": {"source": "miss", "tags": "miss", "caption": None},
    }
    answer = read_output(json.dumps(document | changes).encode())
    assert isinstance(answer, EnrichedImage)
    return answer


def retraction(key: str = "cat.png") -> Retraction:
    return Retraction.model_validate(
        {
            "schema": "image-retraction/1",
            "subject": f"photos/{key}",
            "event": EVENT,
            "source": {"bucket": "photos", "key": key},
            "produced_at": "2026-11-25T00:00:01Z",
        }
    )


def dead_letter() -> DeadLetter:
    failure = Failure(index=0, stage="decode", reason="broken-image", detail="the file ends in the middle")
    return DeadLetter(
        topic="images",
        partition=2,
        offset=9,
        last_offset=9,
        timestamp_ms=0,
        failures=(failure,),
        attempts=1,
        worker="0.1.0",
        models={},
    )


def row(answer: Answer | None, key: str = "cat.png", image: Path | None = None) -> Row:
    found = Row(f"photos/{key}", image)
    found.answer = answer
    return found
