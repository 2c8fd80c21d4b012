"""Progress lines and checks that the commands share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from schemas.printable import printable
from workers.cli import terminal
from workers.errors import not_installed

Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Is told what is being done, how much of it is done, and how much there is if that is known."""

_EVERY_S = 10.0
"""Between lines where there is no terminal."""


@contextmanager
def progress() -> Iterator[Tell]:
    """Show a bar for each activity, or lines; gone at the end."""
    console = terminal.console(stderr=True)
    if not console.is_terminal:
        yield _Lines().tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(doing: str, done: int, total: int | None) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(printable(doing), total=total)
            bars.update(tasks[doing], completed=done, total=total)

        yield tell


class _Lines:
    """Prints a line every few seconds for each activity."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._console = terminal.console(stderr=True)

    def tell(self, doing: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began = self._began.setdefault(doing, now)
        if now - self._said.get(doing, began) < _EVERY_S:
            return
        self._said[doing] = now
        left = f", {(now - began) * (total - done) / done:.0f} s left" if total and done else ""
        self._console.print(terminal.text(f"{doing}: {done:,}{f' of {total:,}' if total else ''}{left}"))


_PACKAGES = {"train": ("accelerate", "matplotlib", "tensorboard"), "parse": ("spacy",)}


def needs(extra: str = "train") -> None:
    """
    Raises:
        Misconfigured: packages of this extra are not installed.
    """
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise not_installed(missing[0])
