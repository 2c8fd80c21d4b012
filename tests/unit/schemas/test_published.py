"""The committed schemas are those of the models, and what we write is valid under them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas.dead_letter import CUSTOMARY, REASONS, Failure, dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from schemas.publish import ASYNCAPI, DEAD_LETTER, DIRECTIONS, FOLDER, documents, write
from tests.unit.schemas.documents import AWS, MINIO, enriched, own, retraction, skip

DOCUMENTS = documents()


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(DOCUMENTS[name]))


def test_the_committed_files_are_what_the_models_say() -> None:
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix == ".json"}
    assert committed == DOCUMENTS, "run `python -m schemas.publish` and commit schemas/published"


def test_writing_makes_the_same_files(tmp_path: Path) -> None:
    paths = write(tmp_path)
    assert {path.name: path.read_bytes() for path in paths} == DOCUMENTS


def test_every_document_but_asyncapi_has_a_direction() -> None:
    assert set(DIRECTIONS) == set(DOCUMENTS) - {ASYNCAPI}


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
def test_every_field_of_an_output_is_promised_but_what_few_events_have(name: str) -> None:
    schema = json.loads(DOCUMENTS[name])
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            assert set(part["properties"]) - set(part["required"]) <= {
                "translations",
                "source",
                "embedding",
                "corrections",
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
def test_readers_are_told_to_pass_over_unknown_fields(name: str) -> None:
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
