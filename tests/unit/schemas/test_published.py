"""The committed schemas equal those of the models, and the AsyncAPI document names them."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from schemas.dead_letter import CUSTOMARY, REASONS, Failure, dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from scripts.messages.publish import ASYNCAPI, DEAD_LETTER, DIRECTIONS, FOLDER, documents
from tests.unit.schemas.documents import AWS, DATA, MINIO, enriched, own, retraction, skip

DOCUMENTS = documents()


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(DOCUMENTS[name]))


def test_the_committed_files_equal_the_models_schemas() -> None:
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix == ".json"}
    assert committed == DOCUMENTS, "run `python -m scripts.messages.publish` and commit schemas/published"


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_each_schema_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(DOCUMENTS[name]))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("enriched-image-1.json", enriched()),
        ("enriched-image-1.json", enriched(status="partial", reason="caption-failed", caption=None, tags=())),
        ("image-retraction-1.json", retraction(scope="version")),
        ("skipped-1.json", skip(subject=None)),
    ],
)
def test_an_output_is_valid(name: str, output: EnrichedImage | Retraction | Skip) -> None:
    validator(name).validate(json.loads(output.to_bytes()))


@pytest.mark.parametrize("name", ["enriched-image-1.json", "image-retraction-1.json", "skipped-1.json"])
def test_every_field_of_an_output_is_required_except_rare_ones(name: str) -> None:
    schema = json.loads(DOCUMENTS[name])
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            assert set(part["properties"]) - set(part["required"]) <= {
                "translations",
                "parents",
                "source",
                "embedding",
                "corrections",
                "by",
                "options",
                "results",
                "missing",
                *("model", "usage"),  # of a caption
                *("read", "of"),  # of a rendition
                *("taken_at", "orientation", "phash", "thumbhash", "place", "facts_missing"),
                "document_id",  # this and the next were added later
                "version",
            }


@pytest.mark.parametrize(
    "path", [("id",), ("source", "sha256"), ("event", "offset"), ("tags", 0, "score"), ("cache", "tags")]
)
def test_an_output_without_a_promised_field_is_invalid(path: tuple[str | int, ...]) -> None:
    document = json.loads(enriched().to_bytes())
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    assert not validator("enriched-image-1.json").is_valid(document)


@pytest.mark.parametrize("name", ["enriched-image-1.json", "image-event-1.json"])
def test_the_schemas_tell_readers_to_ignore_unknown_fields(name: str) -> None:
    assert b"additionalProperties" not in DOCUMENTS[name].replace(b'"additionalProperties": {', b"")


def test_an_input_is_valid_with_and_without_its_optional_fields() -> None:
    image_event = validator("image-event-1.json")
    image_event.validate(own())
    image_event.validate(own(size=1, options={"want": ["tags"]}, more=[1]))
    assert not image_event.is_valid(own(size=-1))


def test_real_notifications_are_valid() -> None:
    notification = validator("s3-notification.json")
    for document in [AWS["put"], AWS["three records"], *(record["value"] for record in MINIO)]:
        notification.validate(document)
    assert not notification.is_valid({"Records": []})


def _as_text(headers: tuple[tuple[str, bytes | None], ...]) -> dict[str, str]:
    """Our own headers; numbers that other software reads are no text."""
    return {name: (value or b"").decode() for name, value in headers if name not in CUSTOMARY}


def test_the_headers_of_a_dead_letter_are_valid_and_so_is_the_json_in_them() -> None:
    written = _as_text(
        dead_letter_headers(
            topic="images",
            partition=0,
            offset=1,
            timestamp_ms=-1,
            failures=[Failure(index=0, stage="parse", reason=reason, detail="why") for reason in REASONS],
            attempts=1,
            worker="0.1.0",
            models={"tagger": "compact cccc"},
            nulls=("key", "value", "headers[3]"),
            keys=(None, b"\xff"),
            last_offset=2,
            truncated=True,
        )
    )
    schema = json.loads(DOCUMENTS[DEAD_LETTER])
    jsonschema.Draft202012Validator(schema).validate(written)
    assert set(schema["properties"]) == {*schema["required"], "tagstream-keys"} == set(written)
    held = {name: part["contentSchema"] for name, part in schema["properties"].items() if "contentSchema" in part}
    assert set(held) == {"tagstream-failures", "tagstream-models", "tagstream-nulls", "tagstream-keys"}
    for name, inner in held.items():
        jsonschema.Draft202012Validator(inner).validate(json.loads(written[name]))


DOCUMENT: dict[str, Any] = json.loads(documents()[ASYNCAPI])

SHAPE = jsonschema.Draft202012Validator(json.loads((DATA / "asyncapi_shape.json").read_text()))


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
    schema = DOCUMENT["components"]["messages"][message]["payload"]
    return jsonschema.Draft7Validator({"components": DOCUMENT["components"], "allOf": [schema]})


def test_the_document_has_the_shape_of_asyncapi_3() -> None:
    SHAPE.validate(DOCUMENT)


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
