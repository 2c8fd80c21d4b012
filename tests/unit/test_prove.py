"""`make prove` keeps a row of each suite from its JUnit files."""

import subprocess
from pathlib import Path

import pytest

from scripts import prove

PASSED = '<testcase name="test_a"/>'
FAILED = '<testcase name="test_b[x|y]"><failure message="no"/></testcase>'
SKIPPED = '<testcase name="test_c"><skipped type="pytest.skip" message="no docker"/></testcase>'
EXPECTED = '<testcase name="test_d"><skipped type="pytest.xfail" message="KAFKA-1"/></testcase>'


def junit(folder: Path, *cases: str) -> Path:
    path = folder / "chaos.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit with a `make chaos` that passes one test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prove, "CHECKOUT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "build" / "junit").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("build\n")
    junit(tmp_path, PASSED)
    (tmp_path / "Makefile").write_text("chaos:\n\t@cp chaos.xml build/junit/\nsoak:\n\t@exit 3\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    return tmp_path


def test_a_row_counts_cases_and_tells_reasons_and_names(tmp_path: Path) -> None:
    result = prove.read([junit(tmp_path, PASSED, FAILED, SKIPPED, SKIPPED, EXPECTED)], "chaos", 2)
    assert prove.shown(result) == ("1", "3: 1 expected failure: KAFKA-1; 2 no docker", "1: test_b[x\\|y]")


def test_a_passing_suite_is_fresh_for_some_hundred_commits(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "FRESH_COMMITS", 2)
    assert prove.why_stale("chaos")
    assert prove.prove("chaos")
    assert not prove.why_stale("chaos")
    git("add", "-A")
    for number in range(prove.FRESH_COMMITS):
        git("commit", "-q", "--allow-empty", "-m", f"{number}")
    assert not prove.why_stale("chaos")
    git("commit", "-q", "--allow-empty", "-m", "one more")
    assert "3 commits" in prove.why_stale("chaos")


def test_a_failed_suite_keeps_its_row_among_others_and_is_run_again(checkout: Path) -> None:
    assert prove.prove("chaos")
    assert not prove.prove("soak")
    assert set(prove.rows(prove.PAGE.read_text())) == {"chaos", "soak"}
    assert "exited with 2" in prove.why_stale("soak")


def test_nothing_is_proved_of_changes_in_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "Makefile").write_text("")
    monkeypatch.setattr("sys.argv", ["prove", "chaos"])
    assert prove.main() == 2
    assert not prove.PAGE.exists()
