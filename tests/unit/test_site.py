"""The site made of docs/ shows every page and every field; `make docs` checks the links between the pages."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def pages(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from pages(below)


def test_the_navigation_names_every_page_once() -> None:
    named = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(there)


def test_the_page_of_fields_is_that_of_the_published_schemas() -> None:
    """`scripts/list_fields.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "list_fields.py"))
    assert (ROOT / "docs" / "fields.md").read_text(encoding="utf-8") == script["page"]()
    published = {file.stem for file in (ROOT / "schemas" / "published").glob("*.json")}
    assert published - {"asyncapi"} == set(script["MESSAGES"])
