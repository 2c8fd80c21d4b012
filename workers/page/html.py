"""A page of HTML with everything in it: its own style and script, pictures as data, nothing loaded from anywhere.

Its Content-Security-Policy allows exactly that: whatever got into the page, no other script would run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape as escape_html
from pathlib import Path
from typing import Any

from schemas.printable import escaped, printable

_FIND = """<div id="find" class="find" role="search" hidden>
<label for="words">Search in names, tags and captions</label>
<input id="words" type="search" autocomplete="off">
<div id="chips" class="chips" role="group" aria-label="Only images with all of these tags"></div>
<p id="found" role="status"></p>
</div>"""


def escape(text: str) -> str:
    """Text from outside as HTML, also in an attribute; no character in it turns the direction of what follows."""
    return escape_html(printable(text))


def escape_json(document: Any) -> str:
    """A document from outside as indented JSON for a `pre`."""
    written = json.dumps(document, ensure_ascii=False, indent=2)
    return "\n".join(escape_html(escaped(line)) for line in written.split("\n"))


def opening(title: str, heading: str, lead: str, style: str = "") -> str:
    """All up to the first content.

    Args:
        style: rules besides those of every page.
    """
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_own('page.css')}{style}</style></head><body><main>",
            f"<h1>{escape(heading)}</h1>",
            f'<p class="lead">{escape(lead)}</p>',
        )
    )


def search() -> str:
    """What finds cards: shown by the script, since it can do nothing without."""
    return _FIND


def closing(footer: str) -> str:
    """All behind the last content. The script needs `search` on the page."""
    return f"<footer>{escape(footer)}</footer>\n</main><script>{_own('page.js')}</script></body></html>\n"


def model_note(tagger: str, labels: int | None = None) -> str:
    """A note on how many names a tagger knows.

    So a name that it does not know is not taken for a fault.
    """
    if tagger == "compact":
        return "The compact model knows a thousand names, those of ImageNet; RAM knows 4,585 tags."
    return "" if labels is None else f"{tagger} knows {labels:,} tags."


@cache
def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_own("page.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
