"""Bucket notifications as MinIO publishes them to Kafka: one record a message, the key query-escaped inside."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

from workers.types import Message


def created(topic: str, bucket: str, key: str, *, size: int, etag: str) -> Message:
    """An object was put."""
    return _message(topic, bucket, key, "s3:ObjectCreated:Put", {"size": size, "eTag": etag})


def removed(topic: str, bucket: str, key: str) -> Message:
    """An object was deleted."""
    return _message(topic, bucket, key, "s3:ObjectRemoved:Delete", {})


def _message(topic: str, bucket: str, key: str, name: str, facts: dict[str, Any]) -> Message:
    now = time.time_ns()
    record = {
        "eventVersion": "2.0",
        "eventSource": "tagstream:demo",
        "awsRegion": "",
        "eventTime": datetime.fromtimestamp(now / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventName": name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            # Later events of an object have greater sequencers; the clock's nanoseconds are as good as any.
            "object": {"key": quote_plus(key), **facts, "sequencer": f"{now:016X}"},
        },
    }
    document = {"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}
    return Message(topic, f"{bucket}/{key}".encode(), json.dumps(document).encode(), ())
