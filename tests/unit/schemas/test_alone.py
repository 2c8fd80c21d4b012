"""Other teams may install `tagstream-schemas` alone, and its README's consumer works as described."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from itertools import permutations
from pathlib import Path

import pytest

import schemas
from schemas.enriched_image import EnrichedImage, GoneSource, Retraction, Source
from tests.support.readers import PACKAGE, readme_reader
from tests.unit.schemas.documents import enriched, retraction, skip
from workers import __version__

_PACKAGE = Path(schemas.__file__).parent

_PROGRAM = """
import importlib, pathlib, pkgutil, sys

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
published = pathlib.Path(package.__file__).parent / "published"
value = b'{"schema": "image-event/1", "id": "1", "bucket": "bucket", "key": "k"}'
print(parse_message(value, (), topic="t", partition=0, offset=0)[0].subject, len(list(published.glob("*.json"))))
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


NAMES = readme_reader()
index, shown = NAMES["index"], NAMES["shown"]

Output = EnrichedImage | Retraction


def _put(version: int | None, modified: int = 0, version_id: str | None = None, sequencer: str | None = None) -> Output:
    source = Source(
        bucket="photos",
        key="a.jpg",
        version_id=version_id,
        etag=f"{version}/{modified}",
        sequencer=sequencer,
        last_modified=f"2026-01-01T00:00:{modified:02}Z",
        sha256="a" * 64,
    )
    return enriched(version=version, source=source)


def _gone(version: int | None, version_id: str | None = None, sequencer: str | None = None) -> Output:
    return retraction(
        version=version,
        scope="version" if version_id else "object",
        source=GoneSource(bucket="photos", key="a.jpg", version_id=version_id, sequencer=sequencer),
    )


def _shown(*outputs: Output) -> set[str | None]:
    """The final state, in any order of arrival."""
    ends: set[str | None] = set()
    for order in permutations(outputs):
        held: dict[bytes, Output] = {}
        for output in order:
            index(output.to_bytes(), held)
        image = shown("photos/a.jpg", held)
        ends.add(None if image is None else image.source.etag)
    return ends


def test_the_newest_is_kept_in_any_order_of_arrival_and_no_sequencer_changes_that() -> None:
    forged = "F" * 128
    assert _shown(_put(1, sequencer=forged), _put(3), _put(2, sequencer="0A")) == {"3/0"}
    assert _shown(_put(1), _gone(2, sequencer=forged), _put(3)) == {"3/0"}
    assert _shown(_put(1, sequencer=forged), _gone(2)) == {None}


def test_an_older_message_does_not_restore_a_removed_image() -> None:
    assert _shown(_put(1), _put(2), _gone(3)) == {None}


def test_without_a_version_the_date_decides_and_any_version_as_great_wins() -> None:
    modified = 1_767_225_600_000_000
    assert _shown(_put(None, 1), _put(None, 3), _put(None, 2)) == {"None/3"}
    assert _shown(_put(None, 1), _put(modified + 1_000_000), _put(None, 0)) == {f"{modified + 1_000_000}/0"}
    assert _shown(_put(None, 1), _put(modified + 999_999)) == {"None/1"}


def test_the_retraction_of_a_version_removes_its_outcome_and_no_other() -> None:
    assert _shown(_put(5, version_id="v2"), _gone(6, "v1")) == {"5/0"}
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2")) == {None}
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2"), _put(4, version_id="v1")) == {None}, "none is older"
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2"), _put(7, version_id="v3")) == {"7/0"}


def test_the_version_null_means_an_image_without_a_version_and_may_be_written_again() -> None:
    assert _shown(_put(5, version_id="v2"), _gone(6, "null")) == {"5/0"}
    assert _shown(_put(5), _gone(6, "null")) == {None}
    assert _shown(_put(5), _gone(6, "null"), _put(7)) == {"7/0"}


def test_a_skip_changes_nothing() -> None:
    held: dict[bytes, Output] = {}
    index(skip().to_bytes(), held)
    assert held == {}


def test_the_package_alone_needs_pydantic_only_as_the_whole_does() -> None:
    alone, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (PACKAGE, PACKAGE.parent)
    )
    assert alone["dependencies"] == [line for line in whole["dependencies"] if line.startswith("pydantic>")]
