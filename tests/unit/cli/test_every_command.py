"""Rules for all commands: arguments before models, homes elsewhere, readers that leave."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.support.command import Tagstream
from tests.support.images import encoded, ramp
from tests.unit.models.tiny import tiny_bundle
from workers.cli import app, tag_page
from workers.cli.app import COMMANDS, run_command
from workers.errors import READER_LEFT
from workers.models.bundle import WEIGHTS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a photo, and a bundle that opens, with invalid weights."""
    weights = tiny_bundle(tmp_path / "ruined").folder / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    (tmp_path / "photo.jpg").write_bytes(encoded(ramp(), "jpeg"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        *(
            (f"{command} {words}", says)
            for command in ("tag", "bench")
            for words, says in (
                ("no-such-photo.jpg --model ruined", "no-such-photo.jpg"),
                ("photo.jpg --model ruined --captioner no-such-captioner", "no-such-captioner"),
            )
        ),
        ("tag photo.jpg --model ruined --page no/out.html", "no/out.html can't be written: No such file or directory"),
        ("bench --model ruined -o no/here.json", "here.json"),
        ("train fit absent --from ruined -o new", "absent"),
    ],
)
def test_what_is_missing_is_named_before_a_model_is_read(
    command: str, says: str, tagstream: Tagstream, folder: None
) -> None:
    assert says in tagstream(*command.split()).fails()


@pytest.mark.parametrize("command", ["tag", "bench"])
def test_profiles_that_are_missing(command: str, tagstream: Tagstream, folder: None) -> None:
    missing = "/no/such/profiles.json"
    assert missing in tagstream(command, "photo.jpg", "--model", "ruined", PROFILES=missing).fails()


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
    said = tagstream(*command).fails()
    assert app.ELSEWHERE[command[0]] in said
    assert "make install" in " ".join(said.split())


@pytest.mark.usefixtures("nothing_installed")
def test_the_help_of_an_absent_command_names_its_package(tagstream: Tagstream) -> None:
    assert "tagstream-train" in tagstream("train", "--help").done


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
