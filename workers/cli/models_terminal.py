"""Output that the commands of `tagstream models` share: bars, marks, and a bundle in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from schemas.printable import counted, printable
from workers.cli import terminal

if TYPE_CHECKING:
    from workers.models.bundle import Bundle

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@contextmanager
def bars() -> Iterator[Tell]:
    """A bar for each thing that is being done, on a terminal; gone at the end."""
    console = terminal.console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(doing: str, done: int, total: int) -> None:
            in_one_go = total == 1 and done == 0  # progress is unknown: the bar pulses
            if doing not in tasks:
                tasks[doing] = progress.add_task(printable(doing), total=None)
            progress.update(tasks[doing], completed=done, total=None if in_one_go else total)

        yield tell


def say(line: str) -> None:
    """To standard output."""
    terminal.console().print(terminal.text(line))


def note(line: str) -> None:
    """What a person should know and need not act on, to standard error."""
    terminal.console(stderr=True).print(terminal.text(f"note: {line}", "yellow"))


def size_of(bundle: Bundle) -> str:
    count = bundle.size_bytes
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def describe(bundle: Bundle) -> str:
    """A bundle in one line."""
    random = ", RANDOM weights: its answers mean nothing" if bundle.manifest.provenance.random else ""
    labels = counted(bundle.manifest.labels, "label")
    return f"{bundle.folder}: {bundle.name}, {labels}, {size_of(bundle)}, digest {bundle.digest[:12]}{random}"
