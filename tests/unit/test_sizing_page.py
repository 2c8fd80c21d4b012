"""The figures of docs/sizing.md are what scripts/sizing.py computes, and its formulas do what the page says."""

from __future__ import annotations

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from workers.settings import variables

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "sizing.py"))
NEED = SCRIPT["Need"]
PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_program() -> None:
    """`scripts/sizing.py --fill docs/sizing.md` repairs this."""
    assert SCRIPT["filled"](PAGE) == PAGE
    assert "| **workers** |" in PAGE


def test_the_numbers_of_the_text_are_those_of_the_formulas() -> None:
    million = NEED(1_000_000, "RAM, bf16", cores=16)
    assert f"{million.at_peak / million.peak:.1f} a second on average" in PAGE
    assert re.search(rf"{million.at_peak:.1f} in an hour with\s+three\s+times", PAGE)
    assert f"{million.core_s * 1e7 / 48 / 3600:.0f} hours" in PAGE
    events, outcomes = 100 * SCRIPT["EVENT_BYTES"], 100 * SCRIPT["ENRICHED_BYTES"]
    assert re.search(rf"{events / 1000:.0f} kB of events and\s+{outcomes / 1000:.0f} kB of outcomes", PAGE)


def test_more_images_never_need_less() -> None:
    sizes = [NEED(count, "RAM, bf16") for count in (1, 10**5, 10**6, 10**7, 10**8)]
    for smaller, larger in pairwise(sizes):
        assert smaller.processors < larger.processors
        assert smaller.workers <= larger.workers
        assert smaller.partitions <= larger.partitions
    assert all(need.workers >= 2 and need.partitions >= 2 * need.workers for need in sizes)


def test_images_seen_before_cost_no_model() -> None:
    half = NEED(10**6, "RAM, bf16", known=0.5)
    assert half.processors == pytest.approx(NEED(10**6, "RAM, bf16").processors / 2)


def test_the_bytes_are_those_of_the_examples_in_the_readme() -> None:
    own, _, enriched = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for text, counted in ((own, SCRIPT["EVENT_BYTES"]), (enriched, SCRIPT["ENRICHED_BYTES"])):
        sent = len(re.sub(r"\s*\n\s*", "", text))
        assert sent == pytest.approx(counted, rel=0.15)


def test_the_settings_that_it_names_exist() -> None:
    assert set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", PAGE)) <= variables()
