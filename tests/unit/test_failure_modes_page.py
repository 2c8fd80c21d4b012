"""The pages for those who run a worker name only what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.dead_letter import REASONS
from workers import metrics
from workers.settings import variables

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (
    "failure-modes.md",
    "backpressure.md",
    "delivery.md",
    "dead-letters.md",
    "metrics.md",
    "security.md",
    "quickstart.md",
    "upgrading.md",
    "faq.md",
    "troubleshooting.md",
    "concepts.md",
    "operating.md",
    "deploying.md",
    "monitoring.md",
    *sorted(f"runbooks/{page.name}" for page in (DOCS / "runbooks").glob("*.md")),
)


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_a_page_names_can_be_set(page: str) -> None:
    named = set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", (DOCS / page).read_text(encoding="utf-8")))
    assert named <= variables()


def test_every_metric_and_reason_that_the_page_of_faults_names_exists() -> None:
    text = (DOCS / "failure-modes.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| ") and line.count(" | ") == 3]
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+)", cell)}
    known = {metric.name.removeprefix("tagstream_") for metric in metrics.ALL}
    assert {name.removesuffix("_total") for name in named} - {"metric"} <= known
    assert len(named) > 10
    assert set(re.findall(r'reason="([a-z-]+)"', text)) <= {*REASONS, "stale", "gone", "superseded"}


@pytest.mark.parametrize("page", PAGES)
def test_a_query_for_open_breakers_holds_while_a_probe_hangs(page: str) -> None:
    """Where a dependency hangs, its breaker is half-open for most of the time: a probe is on its way."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\|", "|")
    asked = re.findall(r'breakers\{[^}]*state=~?"([^"]*)"', text)
    assert {states for states in asked if "open" in states} <= {"open|half-open"}


def test_every_reason_of_a_dead_letter_stands_on_the_page_of_faults() -> None:
    text = (DOCS / "failure-modes.md").read_text(encoding="utf-8")
    told = {reason for reason in REASONS if f"`{reason}`" in text}
    assert set(REASONS) - told == {"skipped-by-operator"}, "what an operator asked for is no fault"
