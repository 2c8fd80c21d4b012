from __future__ import annotations

import pytest

from schemas.image_event import ImageEvent, newer, parse_message
from tagstream_testing.local import notifications
from workers.types import Message


def read(message: Message) -> ImageEvent:
    (event,) = parse_message(message.value, message.headers, topic=message.topic, partition=0, offset=0)
    assert isinstance(event, ImageEvent)
    return event


@pytest.mark.parametrize("key", ["plain.jpg", "a b+c/100% größer?.png", "%20.png"])
def test_the_worker_reads_the_key_that_was_meant(key: str) -> None:
    event = read(notifications.created("images", "photos", key, size=3, etag="e"))
    assert (event.bucket, event.key, event.size, event.etag) == ("photos", key, 3, "e")


def test_the_record_key_is_the_object_as_minio_writes_it() -> None:
    assert notifications.created("images", "photos", "a b+c.png", size=3, etag="e").key == b"photos/a b+c.png"


def test_a_removal_is_newer_than_the_upload_before_it() -> None:
    upload = read(notifications.created("images", "photos", "key", size=3, etag="e"))
    removal = read(notifications.removed("images", "photos", "key"))
    assert removal.action == "retract"
    assert upload.sequencer is not None
    assert removal.sequencer is not None
    assert newer(removal.sequencer, upload.sequencer)
