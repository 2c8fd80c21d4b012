"""Writes the dashboards' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from scripts.dashboards.overview import OVERVIEW
from scripts.dashboards.quality import QUALITY

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "helm" / "tagstream" / "dashboards"
ALL = (OVERVIEW, QUALITY)


def files() -> Mapping[Path, str]:
    """Each file with its text."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.written(), indent=1, ensure_ascii=False) + "\n"
        for dashboard in ALL
    }


def main() -> None:
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
