"""The AsyncAPI document, against what AsyncAPI 3.0 asks of the parts that it uses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from schemas.publish import ASYNCAPI, documents
from tests.unit.schemas.documents import AWS, MINIO, enriched, own, retraction, skip

DOCUMENT: dict[str, Any] = json.loads(documents()[ASYNCAPI])

_NAMES = {"type": "object", "propertyNames": {"pattern": r"^[A-Za-z0-9_\-]+$"}}
_REFERENCE = {
    "type": "object",
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "required": ["$ref"],
    "additionalProperties": False,
}
_BINDINGS = {
    "type": "object",
    "properties": {
        "kafka": {
            "type": "object",
            "properties": {"key": {"type": "object"}, "bindingVersion": {"enum": ["0.4.0", "0.5.0"]}},
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
_SHAPE = {
    "type": "object",
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "version": {"type": "string"},
                "description": {"type": "string"},
                "license": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "url": {"type": "string", "pattern": "^https://"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            "required": ["title", "version"],
            "additionalProperties": False,
        },
        "defaultContentType": {"type": "string"},
        "channels": {
            **_NAMES,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "address": {"type": "string"},
                    "description": {"type": "string"},
                    "messages": {**_NAMES, "additionalProperties": _REFERENCE, "minProperties": 1},
                    "bindings": _BINDINGS,
                },
                "required": ["address", "messages"],
                "additionalProperties": False,
            },
        },
        "operations": {
            **_NAMES,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": _REFERENCE,
                    "summary": {"type": "string"},
                },
                "required": ["action", "channel"],
                "additionalProperties": False,
            },
        },
        "components": {
            "type": "object",
            "properties": {
                "schemas": _NAMES,
                "messages": {
                    **_NAMES,
                    "additionalProperties": {
                        "type": "object",
                        "properties": {
                            "summary": {"type": "string"},
                            "contentType": {"type": "string", "pattern": "^[a-z]+/[a-z+.-]+$"},
                            "headers": {"type": "object", "properties": {"type": {"const": "object"}}},
                            "payload": {"type": "object"},
                            "bindings": _BINDINGS,
                        },
                        "required": ["payload"],
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
    "required": ["asyncapi", "info"],
    "additionalProperties": False,
}
SHAPE = jsonschema.Draft202012Validator(_SHAPE)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def payload(message: str) -> Any:
    """A validator of one message's payload, references and all."""
    schema = DOCUMENT["components"]["messages"][message]["payload"]
    return jsonschema.Draft7Validator({"components": DOCUMENT["components"], "allOf": [schema]})


def test_the_document_has_the_shape_of_asyncapi_3() -> None:
    SHAPE.validate(DOCUMENT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.update(asyncapi="2.6.0"),
        lambda document: document["info"].pop("version"),
        lambda document: document["operations"]["sendEnriched"].update(action="publish"),
        lambda document: document["channels"]["images"].pop("messages"),
        lambda document: document["components"]["messages"]["skip"].pop("payload"),
        lambda document: document.update(topics={}),
    ],
)
def test_the_shape_can_tell_a_damaged_document(damage: Callable[[dict[str, Any]], object]) -> None:
    damaged = copy.deepcopy(DOCUMENT)
    damage(damaged)
    assert not SHAPE.is_valid(damaged)


def test_every_reference_leads_somewhere() -> None:
    references = list(_references(DOCUMENT))
    assert references
    for reference in references:
        assert isinstance(_resolve(reference), dict), reference


def test_every_message_travels_on_a_channel_and_every_channel_has_an_operation() -> None:
    travelling = {r for channel in DOCUMENT["channels"].values() for r in _references(channel["messages"])}
    assert travelling == {f"#/components/messages/{name}" for name in DOCUMENT["components"]["messages"]}
    used = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert used == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


def test_images_and_corrections_alone_are_received() -> None:
    received = [o["channel"]["$ref"] for o in DOCUMENT["operations"].values() if o["action"] == "receive"]
    assert received == ["#/channels/images", "#/channels/corrections"]


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_schema_is_of_the_draft_that_asyncapi_builds_on(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(DOCUMENT["components"]["schemas"][name])


@pytest.mark.parametrize(
    ("message", "document"),
    [
        ("imageEvent", own()),
        ("s3Notification", AWS["put"]),
        ("s3Notification", MINIO[0]["value"]),
        ("cloudEventBinary", own()),
        ("cloudEventBinary", MINIO[0]["value"]),
        ("cloudEventBinary", None),
        ("cloudEventStructured", {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": own()}),
        ("enrichedImage", json.loads(enriched().to_bytes())),
        ("retraction", json.loads(retraction().to_bytes())),
        ("skip", json.loads(skip().to_bytes())),
    ],
)
def test_each_message_describes_what_travels(message: str, document: Any) -> None:
    payload(message).validate(document)


@pytest.mark.parametrize("message", ["imageEvent", "s3Notification", "enrichedImage", "retraction", "skip"])
def test_a_payload_can_tell_another_message(message: str) -> None:
    assert not payload(message).is_valid({"schema": "something-else/1"})
