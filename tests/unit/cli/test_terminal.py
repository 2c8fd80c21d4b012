"""What commands print for a person, by the width that there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from workers.cli import terminal

COLUMNS = ("variable", "default", "meaning")
ROWS = [("A group",), ("TAGSTREAM_CORRECTIONS_TOPIC", "images.corrections", "What persons say of tags. " * 4)]


def listed(width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(terminal.listing(COLUMNS, ROWS, 2, width))
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_a_wide_terminal_has_a_table() -> None:
    lines = listed(160)
    assert lines[0].split() == list(COLUMNS)
    assert lines[1:2] == ["A group"]
    assert lines[2].split()[:3] == ["TAGSTREAM_CORRECTIONS_TOPIC", "images.corrections", "What"]
    assert len(lines) == 3


@pytest.mark.parametrize("width", [60, 80, 119])
def test_on_a_narrow_terminal_names_stay_whole_and_prose_has_lines_of_its_own(width: int) -> None:
    heading, names, *prose = listed(width)
    assert heading == "A group"
    assert names == "TAGSTREAM_CORRECTIONS_TOPIC  images.corrections"
    assert all(line.startswith("  ") for line in prose)
    assert " ".join(" ".join(prose).split()) == "What persons say of tags. " * 3 + "What persons say of tags."
