"""What is in the wheels: the worker's has no fakes, servers or demo, and tagstream-testing adds them to its package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workers import __version__

CHECKOUT = Path(__file__).parents[2]
TESTING = ("testing/tagstream_testing/", "testing/tagstream_testing/local/")


def built(project: str, folder: Path) -> zipfile.ZipFile:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT / project, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return built(".", tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def testing(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return built("testing", tmp_path_factory.mktemp("testing"))


def content(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata(wheel: zipfile.ZipFile) -> list[str]:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return wheel.read(name).decode().splitlines()


def test_the_workers_wheel_leaves_out_what_only_trials_and_tests_need(worker: zipfile.ZipFile) -> None:
    assert not [name for name in content(worker) if name.startswith(TESTING)]
    assert {"workers/__init__.py", "workers/py.typed", "schemas/py.typed"} <= content(worker)
    assert {"workers/page/page.css", "workers/page/page.js"} <= content(worker)


def test_the_other_wheel_has_that_and_nothing_else(testing: zipfile.ZipFile) -> None:
    assert {name for name in content(testing) if not name.startswith(TESTING)} == set()
    assert {"testing/tagstream_testing/__init__.py", "testing/tagstream_testing/py.typed", "testing/tagstream_testing/local/demo_page.css"} <= content(
        testing
    )


def test_both_together_are_the_package(worker: zipfile.ZipFile, testing: zipfile.ZipFile) -> None:
    assert content(worker) & content(testing) == set()
    source = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "workers").rglob("*.py")}
    assert {name for name in content(worker) | content(testing) if name.startswith("workers/")} >= source


def test_each_asks_for_the_others_own_version(worker: zipfile.ZipFile, testing: zipfile.ZipFile) -> None:
    assert f"Requires-Dist: tagstream=={__version__}" in metadata(testing)
    for extra in ("demo", "testing"):
        assert f"Requires-Dist: tagstream-testing=={__version__}; extra == '{extra}'" in metadata(worker)
