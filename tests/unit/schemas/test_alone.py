"""Other teams may install `tagstream-schemas` without the rest."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import schemas
from workers import __version__

_PACKAGE = Path(schemas.__file__).parent

_PROGRAM = """
import importlib, pkgutil, sys

blocked = {"schemas", "tagstream_schemas", "workers", "tests", "numpy", "torch", "orjson", "kafka", "minio", "redis"}


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked - {sys.argv[1]}:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Blocked())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    importlib.import_module(module.name)
parse_message = importlib.import_module(f"{package.__name__}.image_event").parse_message
documents = importlib.import_module(f"{package.__name__}.publish").documents
value = b'{"schema": "image-event/1", "id": "1", "bucket": "bucket", "key": "k"}'
print(parse_message(value, (), topic="t", partition=0, offset=0)[0].subject, len(documents()))
"""


def run_alone(name: str, folder: Path) -> None:
    """The package `name` of `folder` works, with nothing else of ours to be found."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM, name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bucket/k 8\n", "")


@pytest.mark.slow
def test_everything_works_where_nothing_else_of_ours_is_installed() -> None:
    run_alone("schemas", _PACKAGE.parent)


@pytest.mark.slow
def test_the_wheel_installs_as_tagstream_schemas_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=_PACKAGE, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"tagstream_schemas-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"tagstream_schemas"}
    assert {"tagstream_schemas/py.typed", "tagstream_schemas/published/enriched-image-1.json"} <= set(names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    run_alone("tagstream_schemas", tmp_path / "installed")


def test_every_import_is_relative_or_of_pydantic_or_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"pydantic", "pydantic_core"}
    for path in sorted(_PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed, path
