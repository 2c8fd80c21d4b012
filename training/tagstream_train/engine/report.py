"""A cleaning's HTML report, to judge its rules by pictures.

It needs no network and no other file. It shows a bounded random sample of each reason's decisions, each with a small
picture of the image and its region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from operator import itemgetter
from random import Random

from PIL import Image, ImageDraw, ImageOps

from tagstream_train.data.images import BadImage
from tagstream_train.engine.clean import DROPPED, Decision
from workers.page.html import Card, Mark, closing, encoded, escape, facts_list, opening, render, search

SHOWN = 24
"""Decisions of each reason."""
_SIDE = 224
_STYLE = ".card img { object-fit: contain }"
"""A picture is shown whole, since its frame may lie at an edge."""


class Examples:
    """A random sample of each reason's decisions, in their order."""

    def __init__(self, each: int = SHOWN) -> None:
        self._each = each
        self._random = Random(0)
        self._kept: dict[str, list[tuple[float, int, Decision]]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, decision: Decision) -> None:
        kept = self._kept.setdefault(decision.reason, [])
        self.counts[decision.reason] += 1
        heappush(kept, (self._random.random(), self.counts[decision.reason], decision))
        if len(kept) > self._each:
            heappop(kept)

    def of(self, reason: str) -> Sequence[Decision]:
        return [decision for _, _, decision in sorted(self._kept.get(reason, []), key=itemgetter(1))]


def page(title: str, examples: Examples, read: Callable[[str], Image.Image], facts: Mapping[str, str]) -> str:
    """The report as one HTML document.

    Args:
        read: an image by its name in the decisions, RGB; unreadable images are shown without picture.
    """
    total = sum(examples.counts.values())
    dropped = sum(examples.counts.get(reason, 0) for reason in DROPPED)
    counts = {
        reason: f"{count:,} {'dropped' if reason in DROPPED else 'kept'}"
        for reason, count in sorted(examples.counts.items())
    }
    order = [*DROPPED, *sorted(examples.counts.keys() - set(DROPPED))]
    return "\n".join(
        (
            opening(title, title, f"{dropped:,} of {total:,} tags were dropped.", _STYLE),
            facts_list(facts),
            f"<h2>By reason</h2>{facts_list(counts)}",
            search(),
            *(_section(reason, examples, read) for reason in order if examples.of(reason)),
            closing(f"At most {SHOWN} tags of each reason are shown."),
        )
    )


def _section(reason: str, examples: Examples, read: Callable[[str], Image.Image]) -> str:
    shown = examples.of(reason)
    cards = "".join(render(_card(decision, read)) for decision in shown)
    heading = f"{escape(reason)}: {len(shown)} of {examples.counts[reason]:,}"
    return f'<h2>{heading}</h2><div class="cards">{cards}</div>'


def _card(decision: Decision, read: Callable[[str], Image.Image]) -> Card:
    picture, blank = None, ""
    try:
        picture = _picture(read(decision.image), decision)
    except BadImage as error:
        blank = error.reason
    scores = {model: f"{score:.2f}" for model, score in decision.scores.items()}
    return Card(
        decision.image,
        picture,
        blank,
        mark=Mark(decision.label, "bad" if decision.reason in DROPPED else "warn"),
        facts=scores | ({"why": decision.detail} if decision.detail else {}),
    )


def _picture(image: Image.Image, decision: Decision) -> str:
    """A small JPEG of the image with its region framed, in base64."""
    small = ImageOps.contain(image, (_SIDE, _SIDE))
    if decision.box is not None:
        scale = small.width / image.width
        left, top, right, bottom = (round(scale * side) for side in decision.box)
        ImageDraw.Draw(small).rectangle((left, top, right - 1, bottom - 1), outline=(255, 64, 64), width=2)
    return encoded(small)
