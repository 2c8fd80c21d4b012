"""Makes JSON Schemas and one AsyncAPI document of all messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from schemas.correction import Correction
from schemas.dead_letter import Failure
from schemas.dialects.own import ImageEventDocument
from schemas.dialects.s3 import S3Notification
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from scripts.messages.asyncapi import asyncapi, dead_letter_headers_schema

Json: TypeAlias = dict[str, Any]
Direction: TypeAlias = Literal["in", "out"]

FOLDER: Final = Path(__file__).parents[2] / "schemas" / "published"


class Published(NamedTuple):
    """A model and the file that its schema is published in. Direction: as this project sees it."""

    file: str
    model: type[BaseModel]
    direction: Direction

    @property
    def mode(self) -> JsonSchemaMode:
        return "validation" if self.direction == "in" else "serialization"


MODELS: Final = (
    Published("image-event-1.json", ImageEventDocument, "in"),
    Published("s3-notification.json", S3Notification, "in"),
    Published("image-correction-1.json", Correction, "in"),
    Published("enriched-image-1.json", EnrichedImage, "out"),
    Published("image-retraction-1.json", Retraction, "out"),
    Published("skipped-1.json", Skip, "out"),
)
DEAD_LETTER: Final = "dead-letter-1.json"
ASYNCAPI: Final = "asyncapi.json"

DIRECTIONS: Final[dict[str, Direction]] = {item.file: item.direction for item in MODELS} | {DEAD_LETTER: "out"}
"""The schemas by file, for `compatibility.breaking_changes`; AsyncAPI repeats them."""


def documents() -> dict[str, bytes]:
    """Every published file by its name."""
    headers = dead_letter_headers_schema(_schemas([(Failure, "serialization")], "")[Failure.__name__])
    schemas = {item.file: _alone(item) for item in MODELS}
    schemas[DEAD_LETTER] = _named(DEAD_LETTER, headers)
    schemas[ASYNCAPI] = asyncapi(_together(), headers)
    return {name: _pretty(schema) for name, schema in schemas.items()}


def write(folder: Path) -> list[Path]:
    """Write every document into an existing folder; answers their paths."""
    paths = []
    for name, content in documents().items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths


class _Plain(GenerateJsonSchema):
    """Without a title for each field: it would only repeat the field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(items: Sequence[tuple[type[BaseModel], JsonSchemaMode]], refs: str) -> Json:
    """The definitions, by name, of these models and their parts."""
    _, whole = models_json_schema(list(items), ref_template=refs + "{model}", schema_generator=_Plain)
    definitions: Json = whole["$defs"]
    output = all(mode == "serialization" for _, mode in items)
    return {name: _open(schema) for name, schema in definitions.items()} if output else definitions


def _alone(item: Published) -> Json:
    definitions = _schemas([(item.model, item.mode)], "#/$defs/")
    schema = definitions.pop(item.model.__name__)
    return _named(item.file, schema | ({"$defs": definitions} if definitions else {}))


def _together() -> Json:
    inputs = _schemas([(item.model, item.mode) for item in MODELS if item.direction == "in"], "#/components/schemas/")
    outputs = _schemas([(item.model, item.mode) for item in MODELS if item.direction == "out"], "#/components/schemas/")
    return inputs | outputs


def _open(schema: Any) -> Any:
    """An output's schema as a consumer may rely on it.

    The models forbid unknown fields, because our output is exact. Consumers must not: a later version may add fields.
    Defaults are useless to them, as every field is always present.
    """
    if isinstance(schema, list):
        return [_open(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {name: _open(value) for name, value in schema.items() if name != "default"}
    if opened.get("additionalProperties") is False:
        del opened["additionalProperties"]
    return opened


def _named(file: str, schema: Json) -> Json:
    name = file.removesuffix(".json")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:tagstream:{name}"}
    about = {field: schema[field] for field in ("title", "description", "type") if field in schema}
    return head | about | schema


def _pretty(document: Json) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    write(FOLDER)
