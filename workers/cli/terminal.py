"""Console output for people: text, tables, JSON, progress bars and times; and options of several commands.

Much of it is foreign (keys, captions, headers, labels): nothing is read as markup, and `text` and `as_json` escape
control characters.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from schemas.printable import escaped, printable
from workers.assembly.progress import Tell
from workers.errors import Misconfigured

PIPED_WIDTH = 200
"""Columns of output that goes to a file or a pipe, where 80 would cut what matters."""
_NARROW = 120
"""Columns below which a row of names and prose leaves nothing for the prose."""
_INDENTED = 64 << 10
"""Characters of a document on one line that is indented: a line of one that is deep may have thousands of blanks."""


def console(*, stderr: bool = False) -> Console:
    """A console without markup, highlighting and wrapping."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def text(foreign: str, style: str = "", *, lines: bool = False) -> Text:
    """Foreign text as one line, or with `lines` as several."""
    return Text("\n".join(map(printable, foreign.splitlines())) if lines else printable(foreign), style)


def listing(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], names: int, width: int) -> Table:
    """A table; its first `names` columns never wrap.

    Args:
        rows: cells by column; of a heading the first alone.
        width: columns of the terminal. On a narrow one a row is a block: its names, then each other cell below.
    """
    if width >= _NARROW:
        table = Table(box=None, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number < names, overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table
    blocks = Table.grid()
    for row in rows:
        blocks.add_row(Text("  ").join(Text.assemble(cell) for cell in row[:names]))
        for cell in row[names:]:
            blocks.add_row(Padding(cell, (0, 0, 0, 2)))
    return blocks


def as_json(document: Any, *, indent: int | None = None) -> str:
    """JSON of a foreign document, with control characters escaped.

    NaN and infinity become null. If standard output is not UTF-8, all but ASCII is escaped.
    """
    separators = (",", ":") if indent is None else None
    ascii_only = (sys.stdout.encoding or "utf-8").lower() != "utf-8"
    dumped = partial(json.dumps, ensure_ascii=ascii_only, allow_nan=False, indent=indent, separators=separators)
    try:
        written = dumped(document)
    except ValueError:
        from pydantic_core import from_json, to_json

        written = dumped(from_json(to_json(document, inf_nan_mode="null")))
    return "\n".join(map(escaped, written.split("\n")))


def show_json(document: Any) -> None:
    """Print a foreign document, indented unless it is large."""
    written = as_json(document)
    typer.echo(written if len(written) > _INDENTED else as_json(document, indent=2))


def moment(milliseconds: int) -> str:
    """A record's time in UTC, or in ms if out of range."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"


def forget_output() -> None:
    """Discard later output: flushing a closed pipe would raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _RateColumn(ProgressColumn):
    """The recent rate."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar; call the yielded function with the number of items done."""
    columns = (SpinnerColumn(), TextColumn(f"{{task.completed}} {what}"), _RateColumn(), TimeElapsedColumn())
    if total is not None:
        columns = (  # type: ignore[assignment]
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def bars() -> Iterator[Tell]:
    """A progress bar for each task, on a terminal only."""
    screen = console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(doing: str, done: int, total: int | None) -> None:
            in_one_go = total == 1 and done == 0  # progress is unknown: the bar pulses
            if doing not in tasks:
                tasks[doing] = progress.add_task(printable(doing), total=None)
            progress.update(tasks[doing], completed=done, total=None if in_one_go else total)

        yield tell


def say(line: str) -> None:
    """Print to standard output."""
    console().print(text(line))


def note(*lines: str) -> None:
    """Print each as a note to standard error."""
    for line in lines:
        console(stderr=True).print(text(f"note: {line}", "yellow"))


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of a date, an ISO time, or an age.

    Such as "2026-01-31", or "90m", "12h", "7d" before now. Without a zone: UTC. Raises Misconfigured: it is not a time.
    """
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if ago := re.fullmatch(r"(\d+)([smhd])", text):
            return int((datetime.now(UTC) - timedelta(**{units[ago[2]]: int(ago[1])})).timestamp() * 1000)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise Misconfigured(f"{text!r} is no time: 2026-01-31, 2026-01-31T08:00Z, or 90m, 12h, 7d (ago)") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `5.2 h`, `12 d`"""
    for unit, size, most in (("s", 1.0, 90.0), ("min", 60.0, 5_400.0), ("h", 3_600.0, 172_800.0)):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


WITHOUT_GO = "Without --go the command only says what it would do."
NOTHING_YET = "nothing has been changed yet: --go does it"
GoOption = Annotated[bool, typer.Option("--go", help=f"Do it. {WITHOUT_GO}")]
"""Of commands that destroy or publish."""
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what the command would do.")]
"""Of commands that send new events or corrections."""

TaggerOption = Annotated[
    str | None,
    typer.Option(
        metavar="BUNDLE",
        help="The tagger: `compact`, or a bundle's folder. Default: TAGSTREAM_TAGGER.",
        show_default=False,
    ),
]
CaptionerOption = Annotated[
    str | None,
    typer.Option(
        metavar="BUNDLE|ADDRESS|template|none", help="The captioner. Default: TAGSTREAM_CAPTIONER.", show_default=False
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Default: TAGSTREAM_DEVICE.", show_default=False)
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace an existing bundle.")]
