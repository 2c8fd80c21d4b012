"""Output of commands for people, by the terminal's width."""

import io
import json
import tracemalloc

import pytest
from rich.console import Console

from schemas.printable import counted
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


def test_json_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"key": 'a "quoted": true \\', "list": [-1.5e9, True, None]}
    terminal.show_json(document)
    assert capsys.readouterr().out == json.dumps(document, indent=2) + "\n"


def test_large_json_is_printed_without_changes(capsys: pytest.CaptureFixture[str]) -> None:
    document: list[object] = [[1]] * 50_000
    for _ in range(100):  # indented, each of its lines would begin with 200 blanks
        document = [document]
    tracemalloc.start()
    terminal.show_json(document)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert json.loads(capsys.readouterr().out) == document
    assert peak < 20 << 20


def test_a_noun_has_the_number_of_its_count() -> None:
    assert [counted(number, "dead letter") for number in (0, 1, 2_000)] == [
        "0 dead letters",
        "1 dead letter",
        "2,000 dead letters",
    ]
    assert counted(1, "copy", "copies") == "1 copy"
    assert counted(3, "copy", "copies") == "3 copies"
