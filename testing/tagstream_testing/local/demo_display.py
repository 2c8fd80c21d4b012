"""The demo's output: a line for each step, and one for each answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from schemas.dead_letter import DeadLetter
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from schemas.printable import printable
from tagstream_testing.local.demo_retag import Change
from tagstream_testing.local.demo_watch import Answer, Row

_TAGS_SHOWN = 3


class DemoDisplay:
    """The demo's output on a console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, emoji=False)

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
        """A long step: shown while it runs, and with its time when it is done."""
        started = time.monotonic()
        with self.console.status(_lines(text)):  # nothing where it can't be redrawn
            yield
        took = f"{time.monotonic() - started:.1f} s"
        done = Text(" ").join((Text("✓", "green"), _lines(text), Text(took, "dim")))
        self.console.print(done, soft_wrap=True)

    def answered(self, row: Row) -> None:
        """One line of text; a terminal shows it in colours."""
        what, remark = _told(row.answer)
        spent = "" if row.work_ms is None else f"{row.work_ms:.0f} ms"
        saved = Text(f"cache saved {row.remembered}" if row.remembered else "", "green")
        cells = (_word(row.key), what, remark, Text(spent), saved)
        self.console.print(Text("  ").join(cell for cell in cells if cell), soft_wrap=True)


def _lines(text: str, style: str = "") -> Text:
    """Lines that may hold text from outside, without markup and control characters."""
    return Text("\n".join(map(printable, text.split("\n"))), style)


def _word(foreign: str, style: str = "") -> Text:
    """Text from outside, on one line."""
    return Text(printable(foreign), style)


def _told(answer: Answer | None) -> tuple[Text, Text]:
    """An outcome, and a remark on it."""
    if isinstance(answer, EnrichedImage):
        read = (answer.results or {}).get("ocr")
        text = "" if read is None else " ".join(str(read.value["text"]).split())
        return _tags(answer), _word(answer.caption.text if answer.caption else text)
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
