"""Writes the tables of settings and metrics into the pages that hold them between markers. A test compares.

.venv/bin/python scripts/fill_tables.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workers import metrics
from workers.environment import FIELDS, default_text, group_of, is_secret, variable

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"


def settings_table() -> str:
    """The settings as a Markdown table for each group."""
    parts: list[str] = []
    group = ""
    for field in FIELDS:
        if group_of(field) != group:
            group = group_of(field)
            parts.append(f"\n**{group}**\n\n| variable | default | meaning |\n|---|---|---|")
        parts.append(_row(field))
    return "\n".join(parts).strip() + "\n"


def _row(field: str) -> str:
    default = f"`{default_text(field)}`" if default_text(field) else ""
    also = " (or `…_FILE`)" if is_secret(field) else ""
    meaning = (FIELDS[field].description or "").replace("|", "\\|")
    return f"| `{variable(field)}`{also} | {default} | {meaning} |"


def metrics_table() -> str:
    """The metrics as a Markdown table, in the order of their module."""
    rows = [
        f"| `{metric.exposed}` | {metric.kind} | {_quoted(metric.exposed_labels)} | {metric.meaning} |"
        for metric in metrics.ALL
    ]
    return "\n".join(("| metric | kind | labels | meaning |", "|---|---|---|---|", *rows)) + "\n"


def _quoted(labels: Sequence[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


def filled(page: str) -> str:
    """The page with each table between its markers; a page without markers stays unchanged."""
    for name, table in (("settings", settings_table()), ("metrics", metrics_table())):
        head, begin, rest = page.partition(f"<!-- {name}:begin -->")
        _, end, tail = rest.partition(f"<!-- {name}:end -->")
        if end:
            page = f"{head}{begin}\n{table}{end}{tail}"
    return page


if __name__ == "__main__":
    for path in (REFERENCE / "settings.md", REFERENCE / "metrics.md"):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
