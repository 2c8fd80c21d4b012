"""Every `tagstream …` that a page shows is a command that there is, with options that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from workers.cli.app import command_tree

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
ROOT_COMMAND: Any = command_tree()


def command_lines(page: Path) -> list[str]:
    """What stands in code and begins with `tagstream`, up to the end of the command."""
    code = "\n".join("".join(found) for found in CODE.findall(page.read_text(encoding="utf-8")))
    joined = code.replace("\\\n", " ")
    return re.findall(r"(?:^|[;&|(] |-- |\s{2})(?:\.venv/bin/)?tagstream ([a-z][^\n#|;&>]*)", joined, re.MULTILINE)


def wrong(line: str) -> str | None:
    """What there is not of a command line: a command or an option; None: all of it is there."""
    command, words = ROOT_COMMAND, line.split()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if not re.fullmatch(r"[a-z-]+", word):
            return None  # as in `models …`
        if word not in command.commands:
            return word
        command = command.commands[word]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    used = [re.match(r"--?[a-z][a-z-]*", word) for word in words]
    return next((option[0] for option in used if option and option[0] not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_there(page: Path) -> None:
    assert [(line, what) for line in command_lines(page) if (what := wrong(line))] == []


def test_the_pages_show_many_and_a_wrong_one_is_found() -> None:
    assert len([line for page in PAGES for line in command_lines(page)]) > 60
    assert wrong("emit --bucket photos --sideways") == "--sideways"
    assert wrong("dead-letters lost") == "lost"
    assert wrong("dead-letters list --since 2h") is None
