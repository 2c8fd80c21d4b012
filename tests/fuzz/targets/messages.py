"""Input messages of every dialect with their headers, and dead letters that come back."""

import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema

from schemas.dead_letter import (
    CUSTOMARY,
    PREFIX,
    Failure,
    dead_letter_headers,
    only_indexes,
    read_dead_letter_headers,
    replay,
    strip_own_headers,
    with_nulls,
    without_nulls,
)
from schemas.image_event import MAX_RECORDS, BadEvent, Ignored, ImageEvent, newer, parse_message
from scripts.messages.publish import documents
from tagstream_testing.memory import ManualClock
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.mutators import NULL, Parts, headers, nullable
from tests.unit.schemas.documents import AWS, MINIO, notification, own
from workers.audit.claims import count_events
from workers.pipeline.options import WorkerOptions
from workers.pipeline.rendering import Renderer
from workers.pipeline.roles import Roles
from workers.types import Coordinates

_CHECKED = 3
"""Events of one message with rendered outcomes: a thousand would take seconds and prove no more."""
_HEADER_BYTES = 200_000
"""A dead letter's own headers stay below that, whatever the message says."""

_RENDERER = Renderer(Roles(()), WorkerOptions(output_topic="out", dead_letter_topic="dead"), {}, ManualClock())


@cache
def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(documents()[name]))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def messages() -> Iterator[Parts]:
    inner = _json(own(version_id="v1", etag="e", size=3, sequencer="0A", event_time="2026-01-02T03:04:05Z"))
    wishes = own(options={"want": ["tags"], "guide_tags": ["a dog"], "profile": "paper"})
    yield (inner,)
    yield (
        _json(wishes),
        b"traceparent",
        b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        b"tagstream-only",
        b"0,3",
    )
    yield (_json(notification("ObjectCreated:Put", "s3:ObjectRemoved:Delete", versionId="v", size=7, eTag="e")),)
    for document in (*AWS.values(), *(each["value"] for each in MINIO)):
        yield (_json(document),)
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "2026-01-02T03:04:05Z"}
    structured = b"application/cloudevents+json; charset=utf-8"
    yield (_json({**attributes, "data": own()}), b"content-type", structured)
    yield (_json({**attributes, "data": json.dumps(own())}),)
    yield (_json({**attributes, "data_base64": base64.b64encode(inner).decode()}),)
    yield (_json({**attributes, "dataref": "s3://photos/a%20b.jpg?versionId=v1"}),)
    binary = [part for name, text in attributes.items() for part in (f"ce_{name}".encode(), text.encode())]
    yield (inner, *binary, b"content-type", b"application/json")
    yield (b"\xff\xd8\xff", *binary, b"content-type", b"image/jpeg", b"ce_dataref", b"s3://photos/a.jpg")
    yield (NULL, *binary, b"ce_dataref", b"s3://photos/a.jpg")


def parsed(parts: Parts) -> str:
    """Every message has one entry for each index, and each of them an outcome that its schema allows."""
    value, named = nullable(parts[0]), headers(parts[1:])
    entries = parse_message(value, named, topic="images", partition=3, offset=17)
    assert entries
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert len(entries) <= MAX_RECORDS
    assert count_events(value, named) == len(entries)
    failures = [
        Failure(index=entry.index, stage="parse", reason=entry.reason, detail=entry.detail)
        for entry in entries
        if isinstance(entry, BadEvent)
    ]
    if failures:
        _dead_lettered(failures, value, named)
    for entry in entries[:_CHECKED]:
        if not isinstance(entry, BadEvent):
            _rendered(entry)
    only = only_indexes(named)
    assert only is None or all(0 <= index < MAX_RECORDS for index in only)
    first = entries[0]
    return first.reason if isinstance(first, BadEvent | Ignored) else f"{first.dialect} {first.action}"


def _dead_lettered(failures: list[Failure], value: bytes | None, named: Any) -> None:
    key, kept_value, kept_headers, nulls = without_nulls(None, value, strip_own_headers(named))
    added = dead_letter_headers(
        topic="images", partition=3, offset=17, timestamp_ms=-1, failures=failures, attempts=1, worker="w", models={},
        nulls=nulls,
    )  # fmt: skip
    assert sum(len(name) + len(content or b"") for name, content in added) < _HEADER_BYTES
    for name, content in added:
        assert name.startswith(PREFIX) or name in CUSTOMARY
        assert content is not None
        assert b"MARKED-SECRET" not in content, "a signed URL's query left in a detail"
    dead_letter = read_dead_letter_headers((*kept_headers, *added))
    assert dead_letter.indexes == {failure.index for failure in failures}
    [again] = replay(key, kept_value, (*kept_headers, *added))
    assert again[:2] == (None, value)


def _rendered(entry: ImageEvent | Ignored) -> None:
    where = Coordinates("images", 3, 17, entry.index)
    if isinstance(entry, Ignored):
        skip = _RENDERER.skip(where, None, entry.reason, entry.subject)
        validator("skipped-1.json").validate(json.loads(skip.value))
        return
    if entry.sequencer is not None:
        assert not newer(entry.sequencer, entry.sequencer)
    skip = _RENDERER.skip(where, entry, "stale")
    retraction = _RENDERER.retraction(where, entry, 0)
    for name, output in (("skipped-1.json", skip), ("image-retraction-1.json", retraction)):
        validator(name).validate(json.loads(output.value))
        assert output.key


def letters() -> Iterator[Parts]:
    """Dead letters: key, value, then names and values of headers."""
    failures = [Failure(index=n, stage="fetch", reason="unreadable", detail="HTTP 500") for n in (0, 3)]
    keys = (b"", None, b"\xff") * 17
    for truncated, nulls in ((False, ()), (True, ("value", "headers[0]")), (False, ("key", "headers[999999999999]"))):
        added = dead_letter_headers(
            topic="images", partition=0, offset=7, timestamp_ms=1_800_000_000_000, failures=failures, attempts=1,
            worker="0.1.0", models={"tagger": "compact 3f2a"}, nulls=nulls, truncated=truncated,
            keys=keys, last_offset=6 + len(keys),
        )  # fmt: skip
        named = [part for name, content in added for part in (name.encode(), content or b"")]
        yield (b"key", _json(own()), b"trace", b"1", *named)


def replayed(parts: Parts) -> str:
    """Foreign headers are refused with a sentence; a readable dead letter can be sent back."""
    key, value, named = nullable(parts[0]), nullable(b"".join(parts[1:2])), headers(parts[2:])
    try:
        dead_letter = read_dead_letter_headers(named)
    except ValueError as error:
        sentence(error)
        return "not a dead letter"
    with_nulls(key, value, named, dead_letter.nulls)
    try:
        (_, _, sent), *_ = replay(key, value, named)
    except ValueError as error:
        sentence(error)
        return "can't be sent back"
    only = only_indexes(sent)
    assert only is None or only == dead_letter.indexes, "a replay names what failed, or does all"
    return "sent back"


TARGETS = (
    Target("messages", messages, parsed),
    Target("dead-letters", letters, replayed, bounds=Bounds(mib_per_mib=48)),
)
