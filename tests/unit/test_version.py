"""The version is written in workers/__init__.py; every other mention says the same."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.set_version import CHECKOUT, FILES, MENTION, semantic
from workers import __version__

PROJECTS = ("pyproject.toml", *(f"{path.parent.name}/{path.name}" for path in CHECKOUT.glob("*/pyproject.toml")))

CHART = "deploy/helm/tagstream/Chart.yaml"


def mentions(text: str) -> list[str]:
    return [found["version"] for found in MENTION.finditer(text)]


def tracked() -> list[str]:
    """Files under version control; in a source distribution, the files that repeat the version."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, timeout=20)
    return listed.stdout.splitlines() or list(FILES)


def test_no_file_mentions_another_version() -> None:
    others = {}
    for name in tracked():
        path = CHECKOUT / name
        if name.startswith("tests/fuzz/crashes/") or not path.is_file():
            continue  # recorded dead letters keep the version of the worker that wrote them
        found = set(mentions(path.read_text(errors="replace"))) - {__version__}
        if found:
            others[name] = found
    assert others == {}, f"scripts/set_version.py {__version__}"


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_the_script_sets_mentions_it(name: str) -> None:
    assert mentions((CHECKOUT / name).read_text())


@pytest.mark.parametrize("project", PROJECTS)
def test_every_wheel_reads_it(project: str) -> None:
    described = tomllib.loads((CHECKOUT / project).read_text())
    assert described["project"]["dynamic"] == ["version"]
    assert "version" not in described["project"]
    source = (CHECKOUT / project).parent / described["tool"]["hatch"]["version"]["path"]
    assert source.resolve() == CHECKOUT / "workers" / "__init__.py"


def test_the_charts_own_version_is_the_same_in_the_form_that_helm_wants() -> None:
    assert f"\nversion: {semantic(__version__)}\n" in (CHECKOUT / CHART).read_text()


def test_the_script_changes_every_mention_and_nothing_else(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((CHECKOUT / name).read_text())
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "set_version.py"
    script.write_text((CHECKOUT / "scripts" / "set_version.py").read_text())
    subprocess.run([sys.executable, script, "12.3.4rc1"], check=True, timeout=20)
    for name in FILES:
        before, after = (folder / name for folder in (CHECKOUT, tmp_path))
        text = after.read_text()
        assert set(mentions(text)) == {"12.3.4rc1"}
        assert text.replace("12.3.4-rc1", semantic(__version__)).replace("12.3.4rc1", __version__) == before.read_text()
    assert "\nversion: 12.3.4-rc1\n" in (tmp_path / CHART).read_text()
    assert subprocess.run([sys.executable, script, "soon"], capture_output=True, timeout=20).returncode == 2
