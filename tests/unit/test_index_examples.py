"""The examples for other indexes name fields that messages have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INDEX = json.loads((ROOT / "examples" / "index" / "opensearch" / "index.json").read_text(encoding="utf-8"))
TYPES = {"keyword": "string", "text": "string", "date": "string", "float": "number"}
"""OpenSearch's values, and their form in JSON."""


def schema(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "schemas" / "published" / f"{name}-1.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def mapped(fields: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each field that has a type in the mapping, with its path."""
    for name, field in fields.items():
        below = field.get("properties")
        if below is None:
            yield (*path, name), field["type"]
        else:
            yield from mapped(below, *path, name)


def json_types(whole: dict[str, Any], node: dict[str, Any], path: tuple[str, ...]) -> set[str]:
    """The types that the schema allows at the path, through references, choices and arrays; empty: no such field."""
    if "$ref" in node:
        return json_types(whole, whole["$defs"][node["$ref"].rpartition("/")[2]], path)
    if "anyOf" in node:
        return set[str]().union(*(json_types(whole, each, path) for each in node["anyOf"]))
    if "items" in node:
        return json_types(whole, node["items"], path)
    if not path:
        return {node["type"]} if "type" in node else set()
    below = node.get("properties", {}).get(path[0])
    return set() if below is None else json_types(whole, below, path[1:])


@pytest.mark.parametrize(("path", "kind"), [*mapped(INDEX["mappings"]["properties"])], ids=str)
def test_opensearch_maps_a_field_that_enriched_images_have_to_its_type(path: tuple[str, ...], kind: str) -> None:
    whole = schema("enriched-image")
    assert TYPES[kind] in json_types(whole, whole, path)


def test_opensearch_takes_id_version_and_operation_from_fields_of_both_messages() -> None:
    mapper = INDEX["settings"]["ingestion_source"]["mapper_settings"]
    enriched, retraction = schema("enriched-image"), schema("image-retraction")
    for whole in (enriched, retraction):
        assert "string" in json_types(whole, whole, (mapper["id_field"],))
        assert "integer" in json_types(whole, whole, (mapper["version_field"],))
    assert retraction["properties"][mapper["op_type_field"]]["const"] == mapper["op_type_field.delete_value"]
    assert enriched["properties"][mapper["op_type_field"]]["const"] != mapper["op_type_field.delete_value"]
