"""How much of kafka-python is used that it does not document: README.md beside the code names each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import workers

PACKAGE = Path(workers.__file__).parent
PAGE = (PACKAGE / "backends" / "kafka" / "README.md").read_text()
ATTRIBUTES, METHODS = 15, 4
DATA = {"PartitionRecords", "_closed", "records", "ask_at", "tell_at"}
REPLACED = {"dns_lookup", "_parse_fetched_data", "_send_fetches_async", "_send_group_coordinator_request"}


def using_kafka() -> Iterator[ast.Module]:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if any(
            (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kafka")
            or (isinstance(node, ast.Import) and any(name.name.partition(".")[0] == "kafka" for name in node.names))
            for node in ast.walk(tree)
        ):
            assert PACKAGE / "backends" / "kafka" in path.parents, path
            yield tree


def of_others(node: ast.AST) -> bool:
    """Whether this is an attribute of something that is not the object or class itself."""
    return isinstance(node, ast.Attribute) and not (
        isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    )


def test_no_more_private_attributes_are_used_than_the_page_names() -> None:
    found = {
        node.attr
        for tree in using_kafka()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and of_others(node) and node.attr.startswith("_") and node.attr[1] != "_"
    }
    assert len(found) <= ATTRIBUTES
    assert not {name for name in found if name not in PAGE}


def test_no_more_methods_are_replaced_than_the_page_names() -> None:
    """By an assignment to an attribute of another object; those that are data stand in `DATA`."""
    found = {
        target.attr
        for tree in using_kafka()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and of_others(target)
    }
    assert found - DATA == REPLACED
    assert len(REPLACED) <= METHODS
    assert not {name for name in REPLACED if name not in PAGE}
