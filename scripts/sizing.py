"""Writes the table of docs/guide/sizing.md: what `tagstream capacity` says of some cases. A test compares.

.venv/bin/python scripts/sizing.py docs/guide/sizing.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from workers.capacity import BUILT_IN, CapacityPlan, Demand
from workers.cli.capacity import Case, on_a_gpu

EXAMPLES = (
    CapacityPlan(Demand(100_000, megapixels=2, cores=2), BUILT_IN["compact"]),
    CapacityPlan(Demand(1_000_000, megapixels=2, cores=16), BUILT_IN["ram-bf16"]),
    CapacityPlan(Demand(1_000_000_000, megapixels=12, cores=16, known=0.3), on_a_gpu(BUILT_IN["ram-bf16"], 280)),
)
"""The last with a device rate that is assumed."""


def table(plans: Sequence[CapacityPlan]) -> str:
    """A column for each case, as Markdown."""
    columns = [Case(plan).rows() for plan in plans]
    head = f"| |{' |' * len(plans)}\n|---|{'---|' * len(plans)}\n"
    rows = ((name, [column[name] for column in columns]) for name in columns[0])
    return head + "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in rows)


def filled(page: str) -> str:
    """The page with the table between its markers."""
    begin, end = "<!-- sizing:begin -->\n", "<!-- sizing:end -->"
    before, _, rest = page.partition(begin)
    return before + begin + table(EXAMPLES) + end + rest.partition(end)[2]


if __name__ == "__main__":
    to_fill = Path(sys.argv[1])
    to_fill.write_text(filled(to_fill.read_text(encoding="utf-8")), encoding="utf-8")
