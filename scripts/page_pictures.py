"""Make the pictures of the search page in docs/ from `make demo KEEP=1`.

Paste the demo's `export` lines into a second terminal, then run `.venv/bin/python scripts/page_pictures.py`.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[1]
MOST_BYTES: Final = 150_000
LOWER: Final = {"default": {"all": 0.07}}
"""A threshold below the demo's, so that tags would change."""
_SHOWN: Final = """() => [...document.querySelectorAll('main img')]
    .filter(i => i.checkVisibility() && i.getBoundingClientRect().top < innerHeight)
    .every(i => i.complete && i.naturalWidth > 1 && i.previousElementSibling?.tagName !== 'CANVAS')"""


def main() -> int:
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        take(opened(browser, address), "docs/search-page.webp")
        take(
            opened(browser, f"{address}picture?of=photos/scikit-image/motorcycle_right.png", "dark"),
            "docs/guide/search-page-dark.webp",
        )
        take(opened(browser, f"{address}changes"), "docs/guide/search-page-changes.webp")
        page = opened(browser, f"{address}login")
        page.get_by_label("Token").fill(os.environ["TAGSTREAM_INDEX_PAGE_TOKEN"])
        page.keyboard.press("Enter")
        page.locator(".cell[data-subject*=coffee]").click()
        if not page.locator(".who").count():
            page.get_by_label("A tag to add").fill("cup")
            page.keyboard.press("Enter")
            page.locator(".who").first.wait_for()
        take(page, "docs/guide/search-page-one.webp")
    return 0


@contextmanager
def served() -> Iterator[str]:
    """The address of a page with what a lower threshold would change."""
    with tempfile.TemporaryDirectory() as folder:
        plan, changes, profiles = (f"{folder}/{name}" for name in ("plan", "changes", "profiles.json"))
        Path(profiles).write_text(json.dumps(LOWER), encoding="utf-8")
        tagstream = (sys.executable, "-m", "workers")
        planned = (*tagstream, "retag", "plan", "-o", plan, "--changes", changes)
        subprocess.run(planned, env=os.environ | {"TAGSTREAM_PROFILES": profiles}, check=True)
        shown = ("--changes", changes, "--choices", f"{folder}/choices")
        command = (*tagstream, "index", "serve", "--port", "18082", *shown)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                yield server.stdout.readline().strip()
            finally:
                server.terminate()


def opened(browser: Browser, address: str, colors: Literal["dark", "light"] = "light") -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=colors)
    page.goto(address)
    return page


def take(page: Page, place: str) -> None:
    """Write a screenshot as WebP."""
    page.locator("main img").first.wait_for()
    page.wait_for_timeout(1_000)  # counts, similar pictures
    page.wait_for_function(_SHOWN)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.save(ROOT / place, "WEBP", quality=82, method=6)
    if (size := (ROOT / place).stat().st_size) > MOST_BYTES:
        raise SystemExit(f"{place}: {size:,} bytes, and {MOST_BYTES:,} are allowed")


if __name__ == "__main__":
    sys.exit(main())
