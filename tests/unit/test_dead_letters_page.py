"""The page about dead letters knows every reason there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.dead_letter import REASONS, STAGES

ROW = re.compile(r"^\| (?P<stage>[a-z]+) \| `(?P<reason>[a-z-]+)` \| (?P<meaning>.+) \|$", re.MULTILINE)
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "dead-letters.md").read_text(encoding="utf-8")


def test_every_reason_is_described_once() -> None:
    rows = list(ROW.finditer(PAGE))
    assert sorted(row["reason"] for row in rows) == sorted(REASONS)
    assert {row["stage"] for row in rows} <= set(STAGES)
