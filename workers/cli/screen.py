"""What is written for people: wide where nobody measures the width, moving bars only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PIPED_WIDTH = 200
"""Columns of output that goes to a file or a pipe, where 80 would cut what matters."""


def console(*, stderr: bool = False) -> Console:
    """Prints what it is given: colours only where styles ask for them, no lines broken by itself."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Within it, a reader that has enough (`tagstream tail | head`) ends the command, and that is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter would complain at its end, when it flushes what nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Within it, call what it gives with how many more were done. `total` None: not known beforehand."""
    columns = (SpinnerColumn(), TextColumn(f"{{task.completed}} {what}"), TimeElapsedColumn())
    if total is not None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())  # type: ignore[assignment]
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
