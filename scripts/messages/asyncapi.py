"""The AsyncAPI 3.0 document, and the schemas of its headers."""

from __future__ import annotations

from typing import Any, Final

from schemas.dead_letter import INPUT_KEY, INPUT_KEY_BYTES_MAX, INPUT_KEY_SHA256, KEYS_BYTES_MAX, ONLY, PREFIX
from schemas.enriched_image import USES
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_BYTES_MAX, SCORES_HEADER
from schemas.version import VERSION_HEADER

_NATURAL: Final = {"type": "string", "pattern": "^[0-9]+$"}

TRACEPARENT: Final = {
    "type": "string",
    "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
    "description": "W3C Trace Context.",
}

INPUT_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "traceparent": TRACEPARENT,
        ONLY: {
            "type": "string",
            "pattern": "^[0-9]{1,3}(,[0-9]{1,3})*$",
            "description": "A replay: only these events of the message are handled, by index from 0.",
        },
    },
}

OUTPUT_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "traceparent": TRACEPARENT,
        INPUT_KEY: {
            "type": "string",
            "description": f"The key of the input record, where it has at most {INPUT_KEY_BYTES_MAX:,} bytes; "
            "of several outcomes of one record the first has it.",
        },
        INPUT_KEY_SHA256: {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "The sha256 of the key of the input record, where it is longer; in its place.",
        },
    },
}


VERSIONED_HEADERS: Final[dict[str, Any]] = OUTPUT_HEADERS | {
    "properties": OUTPUT_HEADERS["properties"]
    | {VERSION_HEADER: _NATURAL | {"description": "The `version` of the value, for sinks that can't look into it."}},
}

ENRICHED_HEADERS: Final[dict[str, Any]] = VERSIONED_HEADERS | {
    "properties": VERSIONED_HEADERS["properties"]
    | {
        SCORES_HEADER: {
            "contentMediaType": "application/octet-stream",
            "description": "The tagger's scores above its floor, or the best of them; absent where they were not kept "
            f"or the message would be too large. At most {SCORES_BYTES_MAX:,} bytes.",
        },
        EMBEDDING_HEADER: {
            "contentMediaType": "application/octet-stream",
            "description": "The image's embedding, where the tagger gave one and the event does not show it.",
        },
    },
}
TOMBSTONE_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {VERSION_HEADER: _NATURAL | {"description": "One more than the retraction's."}},
}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": schema,
        "description": description,
    }


def dead_letter_headers_schema(failure: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of the headers that a dead letter adds.

    `failure` is the schema of a Failure.
    """
    own: dict[str, dict[str, Any]] = {
        "schema": {"const": "dead-letter/1", "type": "string"},
        "topic": {"type": "string", "description": "The original's topic; partition and offset follow."},
        "partition": _NATURAL,
        "offset": _NATURAL,
        "last-offset": {
            **_NATURAL,
            "description": "The last offset of a batch of records that could not be read, or of records in a row that "
            "are equal except for their keys; else the same as the offset.",
        },
        "timestamp": {
            "type": "string",
            "pattern": "^-?[0-9]+$",
            "description": "The original's, in Unix milliseconds.",
        },
        "failures": _json({"type": "array", "minItems": 1, "items": failure}, "One for each event that failed."),
        "attempts": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "How often it was tried."},
        "worker": {"type": "string", "description": "The worker's version."},
        "models": _json(
            {"type": "object", "additionalProperties": {"type": "string"}}, f"Version by use: {', '.join(USES)}."
        ),
        "nulls": _json(
            {"type": "array", "items": {"type": "string", "pattern": r"^(key|value|headers\[[0-9]+\])$"}},
            "Fields that were null in the original and are empty here.",
        ),
        "keys": _json(
            {"type": "array", "minItems": 2, "items": {"type": ["string", "null"], "contentEncoding": "base64"}},
            "Where the dead letter stands for records that are equal except for their keys: the key of each, from the "
            f"offset to the last offset; at most {KEYS_BYTES_MAX:,} bytes.",
        ),
        "truncated": {
            "type": "string",
            "enum": ["true", "false"],
            "description": "true: not all of the original is here, because its value was too large for this topic or "
            "it could not be read; it stands where it stood.",
        },
    }
    return {
        "title": "DeadLetterHeaders",
        "description": "Headers that a dead letter adds to the original's. Key, value and the other headers are the "
        "original's bytes.",
        "type": "object",
        "properties": {PREFIX + name: schema for name, schema in own.items()},
        "required": [PREFIX + name for name in own if name != "keys"],
    }


_VERSION: Final = "1.0.0"
_BINDING: Final = "0.5.0"
_CE_HEADERS: Final = {
    "type": "object",
    "properties": {
        "ce_specversion": {"type": "string", "pattern": "^1\\.[0-9]+$"},
        "ce_id": {"type": "string", "minLength": 1},
        "ce_source": {"type": "string", "minLength": 1},
        "ce_type": {"type": "string", "minLength": 1},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_dataref": {
            "type": "string",
            "pattern": "^s3://",
            "description": "Without data: the image itself, as s3://bucket/key, percent-encoded, optionally with "
            "?versionId=.",
        },
        "content-type": {"type": "string", "description": "Of the data: JSON."},
    },
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
}
_NO_HEADERS: Final = {"type": "object"}
_SUBJECT_KEY: Final = {"type": "string", "description": "bucket/key of the object, nothing escaped."}


def asyncapi(schemas: dict[str, Any], dead_letter_headers: dict[str, Any]) -> dict[str, Any]:
    """The document over the given component schemas."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tagstream",
            "version": _VERSION,
            "description": "Image events in, enriched images out, over Kafka. Addresses are the default topics; each "
            "is a setting.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(dead_letter_headers), "schemas": schemas},
    }


def _channels() -> dict[str, Any]:
    """Topics by name."""
    return {
        "images": _channel(
            "images",
            "What happened to images (TAGSTREAM_INPUT_TOPICS).",
            "imageEvent",
            "s3Notification",
            "cloudEventBinary",
            "cloudEventStructured",
        ),
        "enriched": _channel(
            "images.enriched",
            "Tags and captions, and images that are gone (TAGSTREAM_OUTPUT_TOPIC). May be compacted.",
            "enrichedImage",
            "retraction",
            "tombstone",
        ),
        "deadLetters": _channel(
            "images.dead-letters", "What can't be enriched (TAGSTREAM_DEAD_LETTER_TOPIC).", "deadLetter"
        ),
        "skipped": _channel(
            "images.skipped",
            "What was rightly passed over (TAGSTREAM_SKIPPED_TOPIC; unset: not published).",
            "skip",
        ),
        "corrections": _channel(
            "images.corrections",
            "What persons say of images' tags (TAGSTREAM_CORRECTIONS_TOPIC). Not to be compacted: of each tag the "
            "last word counts.",
            "correction",
            "withdrawal",
        ),
    }


def _operations() -> dict[str, Any]:
    """The worker's input and output messages."""
    return {
        "readEvents": _operation("receive", "images", "Read events in any dialect."),
        "sendEnriched": _operation("send", "enriched", "One outcome for each event, in the order of its partition."),
        "sendDeadLetters": _operation("send", "deadLetters", "At most one for each record."),
        "readCorrections": _operation("receive", "corrections", "What a person said goes before a model's answer."),
        "sendSkipped": _operation("send", "skipped", "One for each event that is passed over."),
    }


def _channel(address: str, description: str, *messages: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"bindingVersion": _BINDING}},
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _messages(dead_letter_headers: dict[str, Any]) -> dict[str, Any]:
    return {
        "imageEvent": _message("The own dialect.", _ref("ImageEventDocument"), INPUT_HEADERS),
        "s3Notification": _message(
            "A bucket notification, as S3 and MinIO write it; also inside an SNS or EventBridge envelope.",
            _ref("S3Notification"),
            INPUT_HEADERS,
        ),
        "cloudEventBinary": _message(
            "A CloudEvent in binary mode; its data is one of the two above.",
            {"anyOf": [_ref("ImageEventDocument"), _ref("S3Notification"), {"type": "null"}]},
            _both(_CE_HEADERS, INPUT_HEADERS),
        ),
        "cloudEventStructured": _message(
            "A CloudEvent in structured mode; its data is one of the two above.",
            _structured(),
            INPUT_HEADERS,
            content_type="application/cloudevents+json",
        ),
        "enrichedImage": _message(
            "An image's tags and caption.", _ref("EnrichedImage"), ENRICHED_HEADERS, _SUBJECT_KEY
        ),
        "tombstone": _message(
            "Follows the retraction of an object, where TAGSTREAM_TOMBSTONES is on.",
            {"type": "null"},
            TOMBSTONE_HEADERS,
            _SUBJECT_KEY,
        ),
        "retraction": _message(
            "An image is gone.",
            _ref("Retraction"),
            VERSIONED_HEADERS,
            {
                "type": "string",
                "description": "bucket/key of the object; bucket?versionId=V/key, V percent-encoded, where one version "
                "alone is gone, so that compaction keeps what is known of the object.",
            },
        ),
        "deadLetter": _message(
            "The original record, byte for byte, with headers that say what was wrong.",
            {"description": "Whatever the original's value was."},
            dead_letter_headers,
            {"description": "The original's key."},
        ),
        "skip": _message("An event that was passed over.", _ref("Skip"), OUTPUT_HEADERS),
        "correction": _message("Tags that an image has, or has not.", _ref("Correction"), _NO_HEADERS, _SUBJECT_KEY),
        "withdrawal": _message(
            "All that was said of an image is withdrawn.", {"type": "null"}, _NO_HEADERS, _SUBJECT_KEY
        ),
    }


def _structured() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "specversion": {"type": "string", "pattern": "^1\\.[0-9]+$"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "time": {"type": "string", "format": "date-time"},
            "dataref": {"type": "string", "pattern": "^s3://"},
            "data": {"anyOf": [_ref("ImageEventDocument"), _ref("S3Notification")]},
            "data_base64": {"type": "string", "contentEncoding": "base64"},
        },
        "required": ["specversion", "id", "source", "type"],
    }


def _message(
    summary: str,
    payload: dict[str, Any],
    headers: dict[str, Any],
    key: dict[str, Any] | None = None,
    content_type: str = "application/json",
) -> dict[str, Any]:
    binding = {"bindingVersion": _BINDING} | ({} if key is None else {"key": key})
    return {
        "summary": summary,
        "contentType": content_type,
        "headers": headers,
        "payload": payload,
        "bindings": {"kafka": binding},
    }


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return one | {"properties": one["properties"] | other["properties"]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
