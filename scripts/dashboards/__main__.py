"""Writes the dashboards' files, and the list of their panels in docs/guide/monitoring.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.dashboards.grafana import Dashboard
from scripts.dashboards.overview import OVERVIEW
from scripts.dashboards.quality import QUALITY

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring" / "dashboards"
PAGE = ROOT / "docs" / "guide" / "monitoring.md"
BEGIN, END = "<!-- dashboards:begin -->\n", "<!-- dashboards:end -->\n"
ALL = (OVERVIEW, QUALITY)


def files() -> Mapping[Path, str]:
    """Each file with its text."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.written(), indent=1, ensure_ascii=False) + "\n"
        for dashboard in ALL
    }


def page() -> str:
    """docs/guide/monitoring.md with the panels as they are now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n".join(line for dashboard in ALL for line in _listed(dashboard)) + "\n" + END + after


def _listed(dashboard: Dashboard) -> Iterator[str]:
    yield f"**{dashboard.title}** (`{dashboard.uid}.json`): {dashboard.meaning}\n"
    yield "| row | panels |\n|---|---|"
    for row in dashboard.rows:
        yield f"| {row.title} | {', '.join(panel.title for panel in row.panels)} |"
    yield ""


def main() -> None:
    for path, text in {**files(), PAGE: page()}.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
