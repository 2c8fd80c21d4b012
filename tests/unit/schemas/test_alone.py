"""Other teams may install `schemas` without the rest."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import schemas

_PACKAGE = Path(schemas.__file__).parent

_PROGRAM = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"workers", "tests", "numpy", "torch", "orjson", "kafka", "minio", "redis"}:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Blocked())
import schemas
for module in pkgutil.walk_packages(schemas.__path__, "schemas."):
    importlib.import_module(module.name)
from schemas.image_event import parse_message
from schemas.publish import documents
value = b'{"schema": "image-event/1", "id": "1", "bucket": "bucket", "key": "k"}'
print(parse_message(value, (), topic="t", partition=0, offset=0)[0].subject, len(documents()))
"""


def test_everything_works_where_nothing_else_of_ours_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM],
        cwd=_PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bucket/k 7\n", "")


def test_every_import_is_relative_or_of_pydantic_or_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"pydantic", "pydantic_core"}
    for path in sorted(_PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed, path
