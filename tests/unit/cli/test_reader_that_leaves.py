"""Output piped into a program that leaves: a command ends as `cat` does there, with a shell's status for SIGPIPE."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from workers.cli import tag_page
from workers.cli.app import COMMANDS, run_command
from workers.cli.exit_codes import READER_LEFT

SHELL = 'set -o pipefail; "$0" -m workers "$@" | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}'


def without_reader(command: Sequence[str]) -> int:
    """The exit code when standard output is a pipe that is read by no process any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as output, redirect_stdout(output), redirect_stderr(sys.stderr):
        return run_command(command)


def test_its_status_is_that_of_cat(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"line\n" * 1_000_000)
    cat = subprocess.run(["bash", "-c", 'cat "$0" | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}', large], timeout=60)
    assert cat.returncode == READER_LEFT


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
def test_neither_a_trace_nor_a_complaint_is_written(command: str) -> None:
    ran = subprocess.run(["bash", "-c", SHELL, sys.executable, command], capture_output=True, text=True, timeout=60)
    # what fits into the pipe at once may be written before its reader leaves, as with `cat`
    assert ran.returncode in (0, READER_LEFT)
    assert ran.stderr == ""
