"""JSON from outside is read by parsers that bound its nesting and the digits of its numbers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {
    "schemas/compatibility.py": "our own published schemas",
    "workers/models/ram/config.py": "what was written the line before",
    "workers/intake/processes/fork_server.py": "the argument that the parent has written",
}
"""Where `json` reads only what we have written."""


READERS = ("json.loads", "json.load", "literal_eval")


def _reads(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if not any(reader in text for reader in READERS):
        return []
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [call for call in calls if call in READERS]


@pytest.mark.parametrize("package", ["schemas", "workers"])
def test_only_what_we_wrote_is_read_by_a_parser_that_ends_in_a_recursion_error(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        assert not _reads(path) or name in OURS, f"{name}: use pydantic_core.from_json"
