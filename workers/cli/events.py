"""Makes the image events of `tagstream emit`, in either dialect.

The dialects are our own and S3's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

from workers.types import Message

Dialect: TypeAlias = Literal["own", "s3"]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An object that is in the store.

    Args:
        etag: without quotes.
        date: when the store said so, RFC 3339: the event's time. None: it told no time, and the event has none.
    """

    bucket: str
    key: str
    size: int
    etag: str
    date: str | None = None


def event_for(image: StoredImage, topic: str, dialect: Dialect) -> Message:
    """The message that asks for this image; keyed bucket/key, so that one object's events keep their order.

    It has no sequencer: the store keeps none that a later listing could ask for, and one made up here could declare
    the store's own next event stale. A worker that reads another etag than this skips it as superseded.
    """
    document = _WRITERS[dialect](image)
    value = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Message(topic, f"{image.bucket}/{image.key}".encode(), value, ())


def _own(image: StoredImage) -> Mapping[str, Any]:
    return {
        "schema": "image-event/1",
        "id": f"emit-{time.time_ns():x}",
        "bucket": image.bucket,
        "key": image.key,
        "etag": image.etag,
        "size": image.size,
        "event_time": image.date,
    }


def _s3(image: StoredImage) -> Mapping[str, Any]:
    record = {
        "eventVersion": "2.1",
        "eventSource": "tagstream:emit",
        "awsRegion": "",
        "eventTime": image.date,
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": image.bucket, "arn": f"arn:aws:s3:::{image.bucket}"},
            "object": {"key": quote_plus(image.key), "size": image.size, "eTag": image.etag},
        },
    }
    return {"Records": [record]}


_WRITERS: Mapping[Dialect, Callable[[StoredImage], Mapping[str, Any]]] = {"own": _own, "s3": _s3}
