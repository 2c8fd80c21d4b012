"""The site made of docs/ shows every page and every field; `make docs` checks the links between the pages."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link may lead elsewhere when it is followed; what a browser loads by itself may not."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) >= len(list((ROOT / "docs").rglob("*.md")))
    loads = r"""<(?:script|img|iframe|source|video)[^>]*?\ssrc=["']?([^"' >]+)|<link[^>]*?\shref=["']?([^"' >]+)"""
    for page in built:
        loaded = ["".join(found) for found in re.findall(loads, page.read_text(encoding="utf-8"))]
        assert loaded
        assert not [address for address in loaded if re.match(r"\w+:|//", address)], page.name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"""url\(["']?(https?:|//)|@import""", style.read_text(encoding="utf-8")), style.name


def test_the_page_of_fields_is_that_of_the_published_schemas() -> None:
    """`scripts/list_fields.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "list_fields.py"))
    assert (ROOT / "docs" / "reference" / "fields.md").read_text(encoding="utf-8") == script["page"]()
    published = {file.stem for file in (ROOT / "schemas" / "published").glob("*.json")}
    assert published - {"asyncapi"} == set(script["MESSAGES"])
