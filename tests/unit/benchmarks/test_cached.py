"""What the benchmark of cached events shows of its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.cached import Figures, cells, require_hit
from benchmarks.cached_parts import least


def test_each_figure_is_shown_by_its_median_and_range_over_the_rounds() -> None:
    rounds = [Figures(1234.4, 99.6), Figures(1000.0, 110.0), Figures(2000.0, 90.0)]
    assert cells(rounds) == ["1,234 (1,000 to 2,000)", "100 us (90 us to 110 us)"]


def test_single_events_are_shown_by_each_rounds_median_and_99th_percentile() -> None:
    singles = [float(number) for number in range(100, -1, -1)]
    shown = cells([Figures(1.0, 1.0, singles), Figures(1.0, 1.0, [2 * each for each in singles])])
    assert shown[2:] == ["75.0 ms (50.0 ms to 100.0 ms)", "148.5 ms (99.0 ms to 198.0 ms)"]


def test_the_parts_are_shown_by_their_least_round() -> None:
    assert least([{"parse": 3.0, "lookup": 1.0}, {"parse": 2.0, "lookup": 5.0}]) == {"parse": 2.0, "lookup": 1.0}


def test_an_outcome_that_was_computed_again_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="was not cached"):
        require_hit(enriched(tags="miss"))
    require_hit(enriched(tags="hit"))


def enriched(tags: str) -> bytes:
    """The enriched image of the README, with this answer of the cache."""
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    document = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[2])
    return json.dumps(document | {"cache": {"source": "hit", "tags": tags, "caption": None}}).encode()
