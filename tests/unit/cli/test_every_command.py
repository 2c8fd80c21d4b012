"""Rules for all commands: arguments before models, homes elsewhere, readers that leave."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.support.images import encoded, ramp
from tests.unit.cli.conftest import Tagstream
from tests.unit.models.tiny import tiny_bundle
from workers.cli import app, tag_page
from workers.cli.app import COMMANDS, run_command
from workers.errors import MISCONFIGURED, READER_LEFT
from workers.models.bundle import WEIGHTS


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """A bundle that opens, with invalid weights."""
    bundle = tiny_bundle(tmp_path / "ruined")
    weights = bundle.folder / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    return bundle.folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(ramp(), "jpeg"))
    return path


@pytest.mark.parametrize("command", ["tag", "bench"])
@pytest.mark.parametrize(
    ("missing", "options"), [("no-such-photo.jpg", []), ("no-such-captioner", ["--captioner", "no-such-captioner"])]
)
def test_a_file_or_captioner_that_is_missing(
    command: str, missing: str, options: list[str], tagstream: Tagstream, ruined: Path, photo: Path
) -> None:
    ran = tagstream(command, photo if options else missing, "--model", ruined, *options)
    assert ran.code == MISCONFIGURED
    assert missing in ran.err


@pytest.mark.parametrize("command", ["tag", "bench"])
def test_profiles_that_are_missing(
    command: str, tagstream: Tagstream, ruined: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGSTREAM_PROFILES", "/no/such/profiles.json")
    ran = tagstream(command, photo, "--model", ruined)
    assert ran.code == MISCONFIGURED
    assert "/no/such/profiles.json" in ran.err


def test_a_page_that_can_not_be_written(tagstream: Tagstream, ruined: Path, photo: Path, tmp_path: Path) -> None:
    ran = tagstream("tag", photo, "--model", ruined, "--page", tmp_path / "nowhere" / "out.html")
    assert ran.code == MISCONFIGURED
    assert "out.html can't be written: No such file or directory" in ran.err


def test_an_invalid_place_for_the_profile(tagstream: Tagstream, ruined: Path, tmp_path: Path) -> None:
    ran = tagstream("bench", "--model", ruined, "-o", tmp_path / "nowhere" / "here.json")
    assert ran.code == MISCONFIGURED
    assert "here.json" in ran.err


def test_data_that_is_missing(tagstream: Tagstream, ruined: Path, tmp_path: Path) -> None:
    ran = tagstream("train", "fit", tmp_path / "absent", "--from", ruined, "-o", tmp_path / "new")
    assert ran.code == MISCONFIGURED
    assert "absent" in "".join(ran.err.replace("│", "").split()), "a long path is broken within its frame"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "entry_points", lambda **_: ())
    monkeypatch.setattr(app, "command_tree", app.command_tree.__wrapped__)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    "command",
    [
        ("demo", "--keep"),
        ("stack", "up"),
        ("train", "fit", "a", "-o", "b"),
        ("train",),
        ("index", "run"),
        ("search", "red car"),
        ("export", "parquet", "out"),
    ],
)
def test_a_command_without_its_package_says_how_to_get_it(command: tuple[str, ...], tagstream: Tagstream) -> None:
    ran = tagstream(*command)
    assert ran.code == MISCONFIGURED
    assert app.ELSEWHERE[command[0]] in ran.err
    assert "make install" in " ".join(ran.err.split())


@pytest.mark.usefixtures("nothing_installed")
def test_the_help_of_an_absent_command_names_its_package(tagstream: Tagstream) -> None:
    ran = tagstream("train", "--help")
    assert ran.code == 0
    assert "tagstream-train" in ran.out


SHELL = 'set -o pipefail; "$0" -m workers "$@" | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}'


def without_reader(command: Sequence[str]) -> int:
    """The exit code when standard output is a pipe that is read by no process any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as output, redirect_stdout(output), redirect_stderr(sys.stderr):
        return run_command(command)


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)], ids=lambda each: each[0] if each else "all")
def test_so_ends_the_help_of_every_command(command: tuple[str, ...]) -> None:
    assert without_reader([*command, "--help"]) == READER_LEFT


@pytest.mark.parametrize(
    "command", ["--version", "settings", "settings --json", "check", "check --json", "capacity 1000", "models list"]
)
def test_so_ends_a_command_that_prints_by_whatever_means(command: str) -> None:
    assert without_reader(command.split()) == READER_LEFT


@pytest.mark.slow
def test_a_page_is_not_to_blame_for_a_reader_that_left(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), tag_page.page_at(tmp_path / "out.html"):
        raise BrokenPipeError


@pytest.mark.slow
@pytest.mark.parametrize("command", ["settings", "--help"])
def test_it_writes_no_trace_and_no_complaint(command: str) -> None:
    ran = subprocess.run(["bash", "-c", SHELL, sys.executable, command], capture_output=True, text=True, timeout=60)
    # what fits into the pipe at once may be written before its reader leaves, as with `cat`
    assert ran.returncode in (0, READER_LEFT)
    assert ran.stderr == ""
