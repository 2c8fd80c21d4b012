"""JSON Schemas of the headers that we write and read."""

from __future__ import annotations

from typing import Any, Final

from .dead_letter import INPUT_KEY, INPUT_KEY_BYTES_MAX, INPUT_KEY_SHA256, KEYS_BYTES_MAX, ONLY, PREFIX
from .enriched_image import USES
from .stored_scores import EMBEDDING_HEADER, SCORES_BYTES_MAX, SCORES_HEADER
from .version import VERSION_HEADER

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
        "topic": {"type": "string", "description": "Where the original stands; with partition and offset."},
        "partition": _NATURAL,
        "offset": _NATURAL,
        "last-offset": {
            **_NATURAL,
            "description": "The last offset of a batch of records that could not be read, or of records in a row that "
            "are equal but for their keys; else the same as the offset.",
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
            "What was null in the original and is empty here.",
        ),
        "keys": _json(
            {"type": "array", "minItems": 2, "items": {"type": ["string", "null"], "contentEncoding": "base64"}},
            "Where the dead letter stands for records that are equal but for their keys: the key of each, from the "
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
        "description": "What a dead letter adds to the original's headers. Key, value and the other headers are the "
        "original's bytes.",
        "type": "object",
        "properties": {PREFIX + name: schema for name, schema in own.items()},
        "required": [PREFIX + name for name in own if name != "keys"],
    }
