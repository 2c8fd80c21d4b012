"""What the demo shows in a terminal: a live table where there is one, plain lines where there is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from schemas.dead_letter import DeadLetter
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from schemas.printable import printable
from tagstream_testing.local.demo_retag import Change
from tagstream_testing.local.demo_watch import Answer, Row

_TAGS_SHOWN = 3
_FRAME = 10
"""Lines of a terminal that the table leaves free."""


class DemoDisplay:
    """The demo's output on a console. `live` is whether that can redraw."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal

    def say(self, text: str = "") -> None:
        self.console.print(_lines(text), soft_wrap=True)

    def title(self, text: str) -> None:
        self.console.print()
        self.console.print(_lines(text, "bold"), soft_wrap=True)

    def leave(self, text: str) -> None:
        """The last words, in the middle of whatever is shown."""
        self.console.show_cursor(True)
        self.console.print()
        self.console.print(_lines(text), soft_wrap=True)

    def change(self, change: Change) -> None:
        """An image's best tags before and after a retag."""
        parts = (_word(change.key), Text("  "), _tags(change.before), Text(" → "), _tags(change.after))
        self.console.print(Text.assemble(*parts), soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Something that takes a while: shown while it runs, and with its time when it is done."""
        started = time.monotonic()
        if self.live:
            with self.console.status(_lines(text)):
                yield
        else:
            yield
        took = f"{time.monotonic() - started:.1f} s"
        done = Text(" ").join((Text("✓", "green"), _lines(text), Text(took, "dim")))
        self.console.print(done, soft_wrap=True)

    @contextmanager
    def act(self, title: str, total: int) -> Iterator[Act]:
        """A table that grows as answers come, until there are `total`."""
        self.title(title)
        act = Act(total)
        if not self.live:
            act.on_row = lambda row: self.console.print(_line(row), soft_wrap=True)
            yield act
            return
        with Live(
            get_renderable=lambda: act.render(self.console.height - _FRAME),
            console=self.console,
            refresh_per_second=12,
            vertical_overflow="crop",
        ):
            yield act
            act.whole = True


class Act:
    """The state of one table on the display."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._answered: list[Row] = []
        self._started = time.monotonic()
        self.whole = False
        self.on_row: Callable[[Row], None] = self._answered.append

    def answered(self, row: Row) -> None:
        self.on_row(row)

    def render(self, height: int) -> RenderableType:
        """The newest rows that fit, and how far it is; at the end all rows."""
        shown = self._answered if self.whole else self._answered[-max(3, height) :]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        table.add_column("image", ratio=4, no_wrap=True, overflow="ellipsis")
        table.add_column("tags", ratio=5, no_wrap=True, overflow="ellipsis")
        table.add_column("caption", ratio=5, no_wrap=True, overflow="ellipsis")
        table.add_column("ms", justify="right", width=6, no_wrap=True)
        table.add_column("cache saved", width=15, no_wrap=True)
        for row in shown:
            table.add_row(*_cells(row))
        return table if self.whole else Group(table, Text(), self._progress())

    def _progress(self) -> RenderableType:
        done, total = len(self._answered), self._total
        grid = Table.grid(padding=(0, 1))
        elapsed = time.monotonic() - self._started
        grid.add_row(ProgressBar(total, done, width=40), f"{done}/{total}", Text(f"{elapsed:.1f} s", "dim"))
        return grid


def _lines(text: str, style: str = "") -> Text:
    """Lines that may hold text from outside: never markup, and nothing that would steer the terminal."""
    return Text("\n".join(map(printable, text.split("\n"))), style)


def _word(foreign: str, style: str = "") -> Text:
    """Text from outside, on one line."""
    return Text(printable(foreign), style)


def _cells(row: Row) -> tuple[RenderableType, ...]:
    what, remark = _told(row.answer)
    milliseconds = "" if row.work_ms is None else f"{row.work_ms:.0f}"
    return _word(row.key), what, remark, milliseconds, Text(row.remembered or "", "green")


def _line(row: Row) -> Text:
    """A row where nothing can be redrawn: one line of text."""
    what, remark = _told(row.answer)
    spent = "" if row.work_ms is None else f"{row.work_ms:.0f} ms"
    saved = f"cache saved {row.remembered}" if row.remembered else ""
    return Text("  ").join(part for part in (_word(row.key), what, remark, Text(spent), Text(saved)) if part)


def _told(answer: Answer | None) -> tuple[Text, Text]:
    """What came back, and a remark on it."""
    if isinstance(answer, EnrichedImage):
        return _tags(answer), _word(answer.caption.text if answer.caption else "")
    if isinstance(answer, DeadLetter):
        failure = answer.failures[0]
        return Text.assemble(("dead letter ", "red"), failure.reason), _word(failure.detail)
    if isinstance(answer, Retraction):
        return Text("retraction", "yellow"), Text("indexers drop this image")
    if isinstance(answer, Skip):
        return Text.assemble(("skip ", "yellow"), answer.reason), Text()
    return Text("…", "dim"), Text()


def _tags(answer: EnrichedImage) -> Text:
    best = [Text.assemble(_word(tag.name, "cyan"), f" {tag.score:.2f}") for tag in answer.tags[:_TAGS_SHOWN]]
    return Text(", ").join(best) if best else Text("no tag is sure enough", "dim")
