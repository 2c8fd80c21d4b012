"""The pages for those who run a worker name only what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.settings import variables

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (
    "reference/faults.md",
    "reference/alerts.md",
    "design/backpressure.md",
    "design/delivery.md",
    "reference/dead-letters.md",
    "reference/metrics.md",
    "design/security.md",
    "guide/quickstart.md",
    "guide/upgrading.md",
    "guide/faq.md",
    "guide/troubleshooting.md",
    "guide/concepts.md",
    "guide/operating.md",
    "guide/deploying.md",
    "guide/monitoring.md",
    *sorted(f"runbooks/{page.name}" for page in (DOCS / "runbooks").glob("*.md")),
)


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_a_page_names_can_be_set(page: str) -> None:
    named = set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", (DOCS / page).read_text(encoding="utf-8")))
    assert named <= variables()


@pytest.mark.parametrize("page", PAGES)
def test_a_query_for_open_breakers_holds_while_a_probe_hangs(page: str) -> None:
    """Where a dependency hangs, its breaker is half-open for most of the time: a probe is on its way."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\|", "|")
    asked = re.findall(r'breakers\{[^}]*state=~?"([^"]*)"', text)
    assert {states for states in asked if "open" in states} <= {"open|half-open"}
