"""What is in the wheels: the worker's has no fakes, servers, demo or training; each home has a wheel of its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workers import __version__

CHECKOUT = Path(__file__).parents[2]
HOMES = {"testing": "tagstream_testing", "training": "tagstream_train"}


def built(project: str, folder: Path) -> zipfile.ZipFile:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT / project, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return built(".", tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module", params=HOMES)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, zipfile.ZipFile]:
    """A package beside the worker, and its wheel."""
    return HOMES[request.param], built(request.param, tmp_path_factory.mktemp(request.param))


def content(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata(wheel: zipfile.ZipFile, name: str = "METADATA") -> list[str]:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode().splitlines()


def test_the_workers_wheel_has_the_worker_alone(worker: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in content(worker)} == {"workers", "schemas"}
    assert {"workers/__init__.py", "workers/py.typed", "schemas/py.typed"} <= content(worker)
    assert {"workers/page/page.css", "workers/page/page.js"} <= content(worker)


def test_each_other_wheel_has_its_package_whole_and_nothing_else(home: tuple[str, zipfile.ZipFile]) -> None:
    package, wheel = home
    assert {name.partition("/")[0] for name in content(wheel)} == {package}
    (folder,) = CHECKOUT.glob(f"*/{package}")
    assert content(wheel) >= {str(path.relative_to(folder.parent)) for path in folder.rglob("*.py")}
    assert f"{package}/py.typed" in content(wheel)


def test_each_other_wheel_asks_for_the_workers_own_version_and_names_its_commands(
    home: tuple[str, zipfile.ZipFile],
) -> None:
    _, wheel = home
    assert f"Requires-Dist: tagstream=={__version__}" in metadata(wheel)
    assert "[tagstream.commands]" in metadata(wheel, "entry_points.txt")
