from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from tagstream_testing.local.demo_display import DemoDisplay
from testing.tests.local.answers import dead_letter, enriched, retraction, row

HIT = {"source": "hit", "tags": "hit", "caption": None}


def plain() -> tuple[DemoDisplay, io.StringIO]:
    """A display whose output goes into a file or a pipe."""
    output = io.StringIO()
    return DemoDisplay(Console(file=output, highlight=False)), output


def terminal(height: int = 40) -> tuple[DemoDisplay, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=140, height=height, legacy_windows=False, _environ={})
    return DemoDisplay(console), output


def test_in_a_pipe_each_answer_is_one_line_without_control_characters() -> None:
    display, output = plain()
    with display.act("First pass", 3) as act:
        act.answered(row(enriched()))
        act.answered(row(dead_letter(), "cut.png"))
        act.answered(row(retraction(), "gone.png"))
    assert output.getvalue().splitlines() == [
        "",
        "First pass",
        "cat.png  tabby cat 0.62, sofa 0.31  a picture of a tabby cat  40 ms",
        "cut.png  dead letter broken-image  the file ends in the middle",
        "gone.png  retraction  indexers drop this image",
    ]


def test_in_a_pipe_a_long_line_is_not_broken() -> None:
    display, output = plain()
    with display.act("First pass", 1) as act:
        act.answered(row(enriched("k" * 300), "k" * 300))
    assert len(output.getvalue().splitlines()) == 3


def test_what_the_cache_saved_is_told() -> None:
    display, output = plain()
    with display.act("Second pass", 2) as act:
        act.answered(row(enriched(cache=HIT)))
        act.answered(row(enriched(cache=HIT | {"source": "miss"})))
    assert "cache saved fetch and model" in output.getvalue()
    assert output.getvalue().rstrip().endswith("cache saved model")


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    display, output = plain()
    display.say("[red]holiday[/red].png")
    with display.act("[b]", 1) as act:
        act.answered(row(enriched("[i]cat.png"), "[i]cat.png"))
    assert "[red]holiday[/red].png\n\n[b]\n[i]cat.png" in output.getvalue()


def test_nothing_from_outside_is_markup_or_steers_the_terminal() -> None:
    nasty = "\\[/x][bold]\x1b[2J\x9b\u202e\n:smile:"
    display, output = plain()
    display.say(nasty)
    display.title(nasty)
    display.leave(nasty)
    with display.step(nasty):
        pass
    tag = {"name": nasty, "score": 0.5, "label_id": 0}
    with display.act(nasty, 1) as act:
        act.answered(row(enriched(nasty, tags=[tag], caption={"text": nasty, "method": "beam"}), nasty))
    assert all(line.isprintable() for line in output.getvalue().splitlines())
    assert output.getvalue().count("\\[/x][bold]\ufffd[2J\ufffd\ufffd") == 8
    assert output.getvalue().count(":smile:") == 8


def test_on_a_terminal_the_finished_table_shows_every_row() -> None:
    display, output = terminal(height=15)
    with display.act("First pass", 20) as act:
        for number in range(20):
            act.answered(row(enriched(f"{number:02}.png"), f"{number:02}.png"))
    final = output.getvalue().rpartition("cache saved")[2]
    assert [f"{number:02}.png" in final for number in range(20)] == [True] * 20


def test_on_a_terminal_a_growing_table_stays_inside_it_and_shows_how_far_it_is() -> None:
    display, _ = terminal()
    with display.act("First pass", 30) as act:
        for number in range(20):
            act.answered(row(enriched(f"{number:02}.png"), f"{number:02}.png"))
        shown = io.StringIO()
        Console(file=shown, width=140).print(act.render(height=8))
    text = shown.getvalue()
    assert "20/30" in text
    assert "19.png" in text
    assert "11.png" not in text


@pytest.mark.slow
def test_a_line_is_in_a_pipe_as_soon_as_it_is_said() -> None:
    """`tagstream stack up > file`: a shell reads the file while the servers run."""
    program = (
        "import os; from tagstream_testing.local.demo_display import DemoDisplay; DemoDisplay().say('up'); os._exit(0)"
    )
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=buffered, capture_output=True, text=True, check=True)
    assert ran.stdout == "up\n", "what was only buffered is lost with the process"
