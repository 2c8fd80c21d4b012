"""The figures of docs/guide/sizing.md are what the formulas give, and its formulas do what the page says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from workers.capacity import BUILT_IN, CapacityPlan, Demand
from workers.capacity.plan import ENRICHED_BYTES, EVENT_BYTES
from workers.settings import variables

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "sizing.py"))
PAGE = (ROOT / "docs" / "guide" / "sizing.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_program() -> None:
    """`scripts/sizing.py docs/guide/sizing.md` repairs this."""
    assert SCRIPT["filled"](PAGE) == PAGE
    assert PAGE.count("| **workers** |") == 2


def test_the_numbers_of_the_text_are_those_of_the_formulas() -> None:
    million = CapacityPlan(Demand(1_000_000, megapixels=2, cores=16), BUILT_IN["ram-bf16"])
    assert f"{million.mean:.1f} a second on average" in PAGE
    assert re.search(rf"{million.at_peak:.1f} in an hour with\s+three\s+times", PAGE)
    assert f"{million.core_s:.2f} × 10,000,000 ÷ 48 seconds: {million.core_s * 1e7 / 48 / 3600:.0f} hours" in PAGE
    assert f"and {million.profile.new_core_s:.3f} for all else" in PAGE
    own = million.profile
    assert f"some {round(1 / own.known_core_s, -2):,.0f} known images a second" in PAGE
    assert f"or {round(1 / (own.known_core_s + own.new_interpreter_s), -1):,.0f} new ones" in PAGE
    events, outcomes = 100 * EVENT_BYTES, 100 * ENRICHED_BYTES
    assert re.search(rf"{events / 1000:.0f} kB of events and\s+{outcomes / 1000:.0f} kB of outcomes", PAGE)


def test_the_bytes_are_those_of_the_examples_in_the_readme() -> None:
    own, _, enriched = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for text, counted in ((own, EVENT_BYTES), (enriched, ENRICHED_BYTES)):
        sent = len(re.sub(r"\s*\n\s*", "", text))
        assert sent == pytest.approx(counted, rel=0.15)


def test_the_settings_that_it_names_exist() -> None:
    assert set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", PAGE)) <= variables()
