"""The page about dead letters knows every reason there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.dead_letter import REASONS, REASONS_OF

ROW = re.compile(r"^\| (?P<stage>[a-z]+) \| `(?P<reason>[a-z-]+)` \| (?P<meaning>.+) \|$", re.MULTILINE)
NAMED = re.compile(r'(?:Rejected\(|stage=|stage: Stage = )"([a-z]+)",?\s+(?:reason=|reason: Reason = )?"([a-z-]+)"')
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text(encoding="utf-8")
PAIRS = {(stage, reason) for stage, reasons in REASONS_OF.items() for reason in reasons}


def test_every_reason_is_described_once() -> None:
    rows = list(ROW.finditer(PAGE))
    assert sorted(row["reason"] for row in rows) == sorted(REASONS)
    assert {(row["stage"], row["reason"]) for row in rows} == PAIRS


def test_the_worker_names_each_reason_with_its_own_stage() -> None:
    """What is counted under another stage would not have been shown at 0 before."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workers").rglob("*.py"))
    named = set(NAMED.findall(sources))
    assert len(named) > 15
    assert named <= PAIRS
