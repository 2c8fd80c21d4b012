"""The Helm chart's files by themselves. What Helm makes of them, tests/kube compares with kustomize's objects."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.unit.deploy.tools import ROOT, documented

CHART = ROOT / "deploy" / "helm" / "tagstream"
VALUES: Mapping[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Mapping[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def properties(schema: Mapping[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    """Names of values that the schema knows, by path; what stands under `devices` alone is left out."""
    if reference := schema.get("$ref"):
        schema = SCHEMA["definitions"][reference.rpartition("/")[2]]
    for name, each in schema.get("properties", {}).items():
        yield (*path, name)
        if name != "devices":
            yield from properties(each, *path, name)


def test_the_values_file_shows_every_name_that_the_schema_knows() -> None:
    by_device = {"requests", "limits", *VALUES["devices"]["gpu"]["worker"], *VALUES["devices"]["gpu"]["keda"]}
    for path in properties(SCHEMA):
        if path != ("global",) and path[-1] not in by_device:
            found: Any = VALUES
            for name in path:
                assert name in found, path
                found = found[name]


def test_templates_use_values_that_are_there() -> None:
    text = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*")) if path.is_file())
    used = {tuple(path.split(".")) for path in re.findall(r"\.Values\.([A-Za-z_.]+)", text)}
    assert {path[0] for path in used} == VALUES.keys()
    for path in used:
        found: Any = VALUES
        for name in path:
            assert name in found, path
            found = found[name]


def test_the_documentation_names_every_part_that_can_be_turned_on() -> None:
    parts = {name for name, value in VALUES.items() if isinstance(value, dict) and "enabled" in value}
    assert [name for name in sorted(parts) if f"`{name}" not in documented()] == []
