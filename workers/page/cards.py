"""One image on a page: its picture, what was said of it, and the document that says so."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from workers.page.html import escape, escape_json

PICTURE = (1120, 840)
"""Width and height that a picture has at most. A card shows it at half of that or less, a dialog whole."""
_TAGS_IN_WORDS = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """A word for what became of an image; `style` is bad or warn, and only stresses the word."""

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
        _facts(card.facts),
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


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _document(card: Card) -> str:
    if card.document is None:
        return ""
    return f"<details><summary>{escape(card.titled)}</summary><pre>{escape_json(card.document)}</pre></details>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
