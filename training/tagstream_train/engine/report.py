"""A cleaning's HTML report, to judge its rules by pictures.

It needs no network and no other file, and it is bounded: so many decisions of each reason, spread evenly over the run,
each with a small picture of the image and its region.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

from PIL import Image, ImageDraw

from tagstream_train.data.images import BadImage
from tagstream_train.engine.clean import DROPPED, Decision

SHOWN = 24
"""Decisions of each reason."""
_SIDE = 224

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .2rem 1rem .2rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #ccc; border-radius: 6px; padding: .5rem }
figcaption { font-size: 13px; overflow-wrap: anywhere } img { max-width: 100% }
"""


class Examples:
    """Keeps a bounded, evenly spread sample of each reason's decisions."""

    def __init__(self, each: int = SHOWN) -> None:
        self._each = each
        self._kept: dict[str, list[Decision]] = {}
        self._step: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def add(self, decision: Decision) -> None:
        reason = decision.reason
        number = self.counts.get(reason, 0)
        self.counts[reason] = number + 1
        step = self._step.setdefault(reason, 1)
        if number % step:
            return
        kept = self._kept.setdefault(reason, [])
        kept.append(decision)
        if len(kept) >= 2 * self._each:
            self._kept[reason] = kept[::2]
            self._step[reason] = 2 * step

    def of(self, reason: str) -> Sequence[Decision]:
        return self._kept.get(reason, [])[: self._each]


def page(title: str, examples: Examples, read: Callable[[str], Image.Image], facts: Mapping[str, str]) -> str:
    """The report as one HTML document.

    Args:
        facts: what was done, for the table at the top.
        read: an image by its name in the decisions, RGB; one that can't be read any more is shown without.
    """
    total = sum(examples.counts.values())
    dropped = sum(examples.counts.get(reason, 0) for reason in DROPPED)
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    counts = "".join(
        f'<tr><td>{escape(reason)}</td><td class="number">{count:,}</td>'
        f"<td>{'dropped' if reason in DROPPED else 'kept'}</td></tr>"
        for reason, count in sorted(examples.counts.items())
    )
    order = [*DROPPED, *sorted(examples.counts.keys() - set(DROPPED))]
    sections = "".join(_section(reason, examples, read) for reason in order if examples.of(reason))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{dropped:,} of {total:,} tags were dropped.</p>"
        f"<table>{rows}</table><h2>By reason</h2><table>{counts}</table>{sections}</html>\n"
    )


def _section(reason: str, examples: Examples, read: Callable[[str], Image.Image]) -> str:
    shown = examples.of(reason)
    figures = "".join(_figure(decision, read) for decision in shown)
    heading = f"{escape(reason)}: {len(shown)} of {examples.counts[reason]:,}"
    return f'<h2>{heading}</h2><div class="shown">{figures}</div>'


def _figure(decision: Decision, read: Callable[[str], Image.Image]) -> str:
    scores = ", ".join(f"{model} {score:.2f}" for model, score in decision.scores.items())
    lines = [f"<b>{escape(decision.label)}</b>", escape(decision.detail), escape(scores), escape(decision.image)]
    caption = "<br>".join(line for line in lines if line)
    try:
        picture = _picture(read(decision.image), decision)
    except BadImage as error:
        return f"<figure><figcaption>{caption}<br>{escape(error.reason)}</figcaption></figure>"
    alt = escape(f"{decision.label}: {decision.reason}", quote=True)
    return (
        f'<figure><img alt="{alt}" src="data:image/jpeg;base64,{picture}"><figcaption>{caption}</figcaption></figure>'
    )


def _picture(image: Image.Image, decision: Decision) -> str:
    """A small JPEG of the image with its region framed, in base64."""
    scale = _SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if decision.box is not None:
        frame = [round(scale * side) for side in decision.box]
        ImageDraw.Draw(small).rectangle(
            (frame[0], frame[1], frame[2] - 1, frame[3] - 1), outline=(255, 64, 64), width=2
        )
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
