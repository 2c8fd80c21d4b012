"""Draws docs/pipeline.svg: the steps of the pipeline, and the thread that each runs on.

scripts/draw_pipeline.py > docs/pipeline.svg
"""

from __future__ import annotations

import sys

ROWS = (
    (
        ("poll", "poll"),
        ("parse", "parse"),
        ("lookup by source", "lookup"),
        ("fetch", "intake"),
        ("lookup verdicts", "lookup"),
    ),
    (
        ("inspect", "intake"),
        ("lookup by content", "lookup"),
        ("decode", "intake"),
        ("annotate", "device"),
        ("finish", "finish"),
    ),
    (("ledger", "one lock"), ("publish", "publish")),
)
"""Step and thread, from left to right and row by row."""

WIDTH, HEIGHT, GAP, ROW_GAP, LEFT, TOP = 136, 48, 28, 44, 20, 44

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .thread { font-size: 11px; fill: #59636e }
  rect { fill: #f6f8fa; stroke: #59636e; rx: 6px }
  path { fill: none; stroke: #59636e; marker-end: url(#tip) }
  #tip path { fill: #59636e; stroke: none; marker-end: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .thread { fill: #9198a1 } rect { fill: #151b23; stroke: #9198a1 }
    path { stroke: #9198a1 } #tip path { fill: #9198a1 }
  }
"""


def drawn() -> str:
    """The picture as an SVG document, which follows the reader's light or dark scheme."""
    width = LEFT * 2 + 5 * WIDTH + 4 * GAP
    height = TOP + 3 * HEIGHT + 2 * ROW_GAP + 44
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            ' aria-label="The steps of the pipeline from poll to publish, and their threads">'
        ),
        f"<style>{STYLE}</style>",
        (
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z"/></marker>'
        ),
        f'<text x="{LEFT + WIDTH / 2:g}" y="18">Kafka: image events</text>',
        f'<path d="M{LEFT + WIDTH / 2:g} 24V{TOP - 2}"/>',
    ]
    for row, steps in enumerate(ROWS):
        y = TOP + row * (HEIGHT + ROW_GAP)
        for column, (step, thread) in enumerate(steps):
            parts += _box(LEFT + column * (WIDTH + GAP), y, step, thread)
            if column:
                parts.append(f'<path d="M{LEFT + column * (WIDTH + GAP) - GAP + 2} {y + HEIGHT // 2}h{GAP - 4}"/>')
        if row:
            parts.append(_turn(y))
    out = LEFT + WIDTH + GAP + WIDTH / 2
    parts.append(
        f'<path d="M{out:g} {height - 42}v16"/><text x="{out:g}" y="{height - 10}">Kafka: enriched events</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(x: int, y: int, step: str, thread: str) -> list[str]:
    middle = x + WIDTH // 2
    return [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text x="{middle}" y="{y + 21}">{step}</text>',
        f'<text class="thread" x="{middle}" y="{y + 38}">{thread}</text>',
    ]


def _turn(y: int) -> str:
    """The arrow from the end of the row above to the start of the row at y."""
    end, start, above = LEFT + 4 * (WIDTH + GAP) + WIDTH // 2, LEFT + WIDTH // 2, y - ROW_GAP
    return f'<path d="M{end} {above + 2}V{above + ROW_GAP // 2}H{start}V{y - 2}"/>'


if __name__ == "__main__":
    sys.stdout.write(drawn())
