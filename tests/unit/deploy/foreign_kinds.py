"""Schemas of the kinds that Kubernetes itself does not know, from foreign_kinds.yaml."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.unit.deploy.tools import Manifest

_WRITTEN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


def _schema(written: Any) -> Any:
    """JSON Schema of what is written there."""
    if isinstance(written, str):
        return _schema(_WRITTEN["parts"][written]) if written in _WRITTEN["parts"] else written
    if isinstance(written, list):
        return [_schema(each) for each in written]
    if not isinstance(written, dict):
        return written
    if isinstance(written.get("required"), dict):
        return _object(written["required"], written.get("optional", {}))
    return {name: _schema(each) for name, each in written.items()}


def _object(required: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": _schema(required) | _schema(optional),
        "required": list(required),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    name: _object(
        {
            "apiVersion": {"const": kind["apiVersion"]},
            "kind": "text",
            "metadata": {"type": "object"},
            "spec": kind["spec"],
        },
        {},
    )
    for name, kind in _WRITTEN["kinds"].items()
}


def validate(manifest: Manifest) -> None:
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
