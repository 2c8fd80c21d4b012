"""A page of HTML with everything in it: its own style and script, pictures as data, nothing loaded from anywhere.

Its Content-Security-Policy allows exactly that: whatever got into the page, no other script would run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape as escape_html
from pathlib import Path
from typing import Any

from PIL import Image

from schemas.printable import counted, escaped, printable

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
    """All up to the first content."""
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
    """A note on how many names a tagger knows. So a name that it does not know is not taken for a fault."""
    if tagger == "compact":
        return "The compact model knows a thousand names, those of ImageNet; RAM knows 4,585 tags."
    return "" if labels is None else f"{tagger} knows {counted(labels, 'tag')}."


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


PICTURE = (1120, 840)
"""Width and height that a picture has at most. A card shows it at half of that or less, a dialog whole."""
_TAGS_IN_WORDS = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """A word for an image's outcome; `style` is bad or warn, and only stresses the word."""

    word: str
    style: str


@dataclass(frozen=True, slots=True)
class Card:
    """What one card shows. All of it may come from outside.

    Args:
        picture: see `encoded`; None: there is none, as `blank` says in its place.
        tags: (name, score), best first; None: it was not tagged.
        facts: names and values, below the name.
        foot: HTML at the end, of the caller's making.
        document: shown as JSON on demand, under `titled`.
    """

    name: str
    picture: str | None = None
    blank: str = "no image in this file"
    caption: str | None = None
    tags: Sequence[tuple[str, float]] | None = None
    mark: Mark | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    foot: str = ""
    document: Any = None
    titled: str = "JSON"
    gone: bool = False


def encoded(image: Image.Image) -> str:
    """A base64 JPEG of an RGB image, which is shrunk in place."""
    image.thumbnail(PICTURE)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=82)
    return base64.b64encode(written.getvalue()).decode()


def render(card: Card) -> str:
    """The card as HTML."""
    parts = (
        f'<span class="mark {card.mark.style}">{escape(card.mark.word)}</span>' if card.mark else "",
        f'<p class="caption">{escape(_sentence(card.caption))}</p>' if card.caption else "",
        f'<p class="key">{escape(card.name)}</p>',
        "" if card.tags is None else _tags(card.tags),
        facts_list(card.facts),
        card.foot,
        _document(card),
    )
    style = "card gone" if card.gone else "card"
    return f'<article class="{style}">{_picture(card)}<div>{"".join(parts)}</div></article>'


def _picture(card: Card) -> str:
    if card.picture is None:
        return f'<div class="blank">{escape(card.blank)}</div>'
    return f'<img alt="{escape(_words(card))}" src="data:image/jpeg;base64,{card.picture}">'


def _words(card: Card) -> str:
    """The picture in words: its caption, else its best tags, else its name."""
    if card.caption:
        return _sentence(card.caption)
    return ", ".join(name for name, _ in (card.tags or ())[:_TAGS_IN_WORDS]) or card.name


def _tags(tags: Sequence[tuple[str, float]]) -> str:
    if not tags:
        return '<p class="none">no tag is sure enough</p>'
    return f'<ul class="tags">{"".join(_tag(*tag) for tag in tags)}</ul>'


def _tag(name: str, score: float) -> str:
    shown = escape(name)
    return f'<li><span data-tag="{shown}">{shown}</span><i>{score:.2f}</i><u style="--score:{score:.3f}"></u></li>'


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values as a list; empty for no values."""
    if not facts:
        return ""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _document(card: Card) -> str:
    if card.document is None:
        return ""
    return f"<details><summary>{escape(card.titled)}</summary><pre>{escape_json(card.document)}</pre></details>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
