"""Draws reliability: how often images of a score show their label, before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workers.page.html import escape

Point = tuple[float, float, int]
"""Mean score and share of positives of a bin, 0 to 1, and its images."""

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


def reliability_picture(title: str, panels: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """An SVG with a diagram for each panel; on the dashed line scores are right."""
    width = len(panels) * (_SIDE + _LEFT + 14)
    drawn = "\n".join(_panel(number, *panel) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_TOP + _SIDE + 44}" role="img" '
        f'aria-label="{escape(title)}">\n{_STYLE}\n{drawn}\n</svg>\n'
    )


def _panel(number: int, name: str, points: Sequence[Point]) -> str:
    left = number * (_SIDE + _LEFT + 14) + _LEFT
    placed = [(left + score * _SIDE, _TOP + (1 - share) * _SIDE, images) for score, share, images in points]
    lines = [
        f'<text x="{left + _SIDE / 2}" y="18">{escape(name)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
        f'<line x1="{left}" y1="{_TOP + _SIDE}" x2="{left + _SIDE}" y2="{_TOP}"/>',
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)}"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{count:,}</title></circle>' for x, y, count in placed),
        f'<text class="small" x="{left + _SIDE / 2}" y="{_TOP + _SIDE + 32}">score</text>',
        f'<text class="small left" x="{left}" y="{_TOP - 6}">share of images with the label</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        lines += [
            f'<text class="small" x="{left + tick * _SIDE}" y="{_TOP + _SIDE + 16}">{tick:g}</text>',
            f'<text class="small right" x="{left - 6}" y="{_TOP + (1 - tick) * _SIDE + 4}">{tick:g}</text>',
        ]
    return "\n".join(lines)
