"""Writes the tables of faults in docs/ out of docs/faults.toml.

    scripts/list_faults.py

A test compares the pages with it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.dead_letter import REASONS_OF

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TABLE = DOCS / "faults.toml"
AREAS = ("Kafka", "Messages", "Object store", "Images", "Device", "Redis", "Worker")
SUBJECTS = ("Object store", "Images", "Device", "Redis")
"""Areas that are the subject of what happened in them."""
END = "<!-- faults:end -->\n"


class Fault(NamedTuple):
    """One entry of the table; docs/faults.toml says what its fields are."""

    what: str
    area: str = ""
    record: str = ""
    reasons: Sequence[str] = ()
    log: Sequence[str] = ()
    last_lines: Sequence[str] = ()
    metric: str = ""
    do: str = "nothing"
    alerts: Sequence[str] = ()

    def home(self) -> str:
        """The page that has its row; empty: only runbooks have it."""
        if self.reasons:
            return "dead-letters"
        if self.record:
            return "failure-modes"
        return "troubleshooting" if self.lines() else ""

    def lines(self) -> Sequence[str]:
        """Every line that the program writes about it."""
        return [*self.log, *self.last_lines]

    def shown(self, text: str) -> str:
        """A text with the lines of the log below it."""
        return "<br>".join((text, *(f"`{line}`" for line in self.lines())))


def faults() -> Sequence[Fault]:
    """The table, in its order."""
    return [Fault(**entry) for entry in tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]]


def pages() -> Mapping[Path, str]:
    """Each page that has tables of faults, with its text as it should be."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "<!-- faults:begin " in text:
            found[path] = _renewed(text, path.parent)
    return found


def _renewed(text: str, folder: Path) -> str:
    def table(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{_linked(line, folder)}\n" for line in _lines(found[2])) + END

    return re.sub(r"(<!-- faults:begin (.+?) -->\n).*?<!-- faults:end -->\n", table, text, flags=re.DOTALL)


def _linked(line: str, folder: Path) -> str:
    """The line with its links, which begin at docs/, as a page of the folder has them."""
    below = os.path.relpath(DOCS, folder)
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda link: f"]({os.path.normpath(f'{below}/{link[1]}')})", line)


def _lines(name: str) -> Iterator[str]:
    """The lines between the markers of this name: `reasons`, `area X`, `lines` or `alert X`."""
    kind, _, which = name.partition(" ")
    yield from {"reasons": _reasons, "area": _area, "lines": _other_lines, "alert": _alert}[kind](which)


def _reasons(_: str) -> Iterator[str]:
    yield from _row("reason", "stage", "what happened", "what to do")
    by_reason = {reason: fault for fault in faults() for reason in fault.reasons}
    for stage, reasons in REASONS_OF.items():
        for reason in reasons:
            fault = by_reason[reason]
            happened = "; ".join(filter(None, (fault.what, fault.record)))
            yield _cells(f"`{reason}`", stage, fault.shown(happened), fault.do)


def _area(area: str) -> Iterator[str]:
    yield from _row("fault", "what happens, and the log", "metric", "what to do")
    for fault in faults():
        if fault.area == area and fault.home() == "failure-modes":
            yield _cells(fault.what, fault.shown(fault.record), fault.metric, fault.do)


def _other_lines(_: str) -> Iterator[str]:
    yield from _row("line", "means", "what to do")
    for fault in faults():
        if fault.home() == "troubleshooting":
            yield _cells("<br>".join(f"`{line}`" for line in fault.lines()), fault.what, fault.do)


def _alert(alert: str) -> Iterator[str]:
    yield from _row("cause", "what to do")
    for fault in faults():
        if alert in fault.alerts:
            cause = f"{fault.area}: {fault.what}" if fault.area in SUBJECTS else fault.what
            yield _cells(cause, fault.do)


def _row(*heads: str) -> Iterator[str]:
    yield _cells(*heads)
    yield "|---" * len(heads) + "|"


def _cells(*cells: str) -> str:
    return re.sub(" +", " ", f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
