"""Draws reliability: how often images of a score show their label."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIDE: Final = 280
_LEFT, _TOP = 46, 44
_STYLE: Final = """\
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .small { font-size: 11px; fill: #59636e } .left { text-anchor: start } .right { text-anchor: end }
  rect { fill: none; stroke: #59636e } line { stroke: #59636e; stroke-dasharray: 4 3 }
  polyline { fill: none; stroke: #0969da; stroke-width: 2 } circle { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } rect, line { stroke: #9198a1 }
    polyline { stroke: #4493f8 } circle { fill: #4493f8 }
  }
</style>"""


class Bin(NamedTuple):
    """Images with alike scores: their mean score, the share of them with the label, their number."""

    score: float
    share: float
    images: int


def reliability(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> list[Bin]:
    """Bins of a tenth each, from low scores to high; both (n,)."""
    at = np.minimum((scores * 10).astype(int), 9)
    bins = [(scores[at == i], shown[at == i]) for i in range(10)]
    return [Bin(float(s.mean()), float(y.mean()), len(s)) for s, y in bins if len(s)]


def reliability_picture(bins: list[Bin]) -> str:
    """An SVG; on the dashed line scores are right."""
    placed = [(_LEFT + each.score * _SIDE, _TOP + (1 - each.share) * _SIDE, each.images) for each in bins]
    lines = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
        f'<line x1="{_LEFT}" y1="{_TOP + _SIDE}" x2="{_LEFT + _SIDE}" y2="{_TOP}"/>',
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)}"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{count:,}</title></circle>' for x, y, count in placed),
        f'<text class="small" x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 32}">score</text>',
        f'<text class="small left" x="{_LEFT}" y="{_TOP - 6}">share of images with the label</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        lines += [
            f'<text class="small" x="{_LEFT + tick * _SIDE}" y="{_TOP + _SIDE + 16}">{tick:g}</text>',
            f'<text class="small right" x="{_LEFT - 6}" y="{_TOP + (1 - tick) * _SIDE + 4}">{tick:g}</text>',
        ]
    drawn = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE + _LEFT + 14} {_TOP + _SIDE + 44}" role="img" '
        f'aria-label="Reliability">\n{_STYLE}\n{drawn}\n</svg>\n'
    )
