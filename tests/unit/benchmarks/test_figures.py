"""The benchmarks' conclusions from their measurements."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alike import alike
from benchmarks.cached import Figures, latencies, require_hit, table_of_rates
from benchmarks.cached_parts import least
from benchmarks.start import STEPS, spread, steps_s


def test_rates_are_shown_by_their_median_and_range_over_the_rounds() -> None:
    rounds = [{"worker": Figures(1234.4, 99.6)}, {"worker": Figures(1000.0, 110.0)}, {"worker": Figures(2000.0, 90.0)}]
    table = table_of_rates(rounds)
    assert [list(column.cells) for column in table.columns] == [
        ["worker"],
        ["1,234 (1,000 to 2,000)"],
        ["100 us (90 us to 110 us)"],
    ]


def test_latencies_are_compared_with_the_bare_loop_of_the_same_round() -> None:
    singles = [float(number) for number in range(100, -1, -1)]
    rounds = [
        {"worker, once": [2 * each for each in singles], "bare loop, once": singles},
        {"worker, once": [8 * each for each in singles], "bare loop, once": [2 * each for each in singles]},
    ]
    shown = latencies(rounds, "worker, once", "bare loop, once")
    assert shown[0] == "250.0 ms (100.0 ms to 400.0 ms)"
    assert shown[2:] == ["495.0 ms (198.0 ms to 792.0 ms)", "0.0 ms", "3.00 (2.00 to 4.00)", "3.00 (2.00 to 4.00)"]
    assert latencies(rounds, "bare loop, once", "bare loop, once")[3:] == ["0.0 ms"]


def test_the_parts_are_shown_by_their_least_round() -> None:
    assert least([{"parse": 3.0, "lookup": 1.0}, {"parse": 2.0, "lookup": 5.0}]) == {"parse": 2.0, "lookup": 1.0}


def test_an_outcome_that_was_computed_again_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="was not cached"):
        require_hit(as_in_the_readme(tags="miss"))
    require_hit(as_in_the_readme(tags="hit"))


def as_in_the_readme(tags: str) -> bytes:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    document = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[2])
    return json.dumps(document | {"cache": {"source": "hit", "tags": tags, "caption": None}}).encode()


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_step_ends_with_the_first_line_that_says_so(tmp_path: Path) -> None:
    said = [*STEPS.values(), *STEPS.values()]
    lines = [
        json.dumps({"time": (BEGAN + timedelta(seconds=second**2)).isoformat(), "message": f"{message} …"})
        for second, message in enumerate(said, 1)
    ]
    log = tmp_path / "worker.log"
    log.write_text("\n".join(["no JSON", *lines]))
    assert steps_s(log, BEGAN) == (1, 3, 5, 7)


def test_each_round_is_compared_with_its_own_import() -> None:
    assert spread([3.0, 9.0, 5.0], [1.0, 8.0, 1.0], "s") == "2.00 s (1.00 s to 4.00 s)"
    assert spread([700.0], [550.0], "MB") == "150 MB (150 MB to 150 MB)"


def test_alike_are_the_nearest_that_share_a_parent() -> None:
    angles = np.array([0.0, 0.1, 0.2, 2.0, 2.1, 2.2, 2.3])
    vectors = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    parents = [["dog", "animal"], ["animal"], ["dog", "animal"], ["car"], [], ["car"], ["car"]]
    any_parent, nearest = alike(vectors, parents)
    assert (any_parent, nearest) == pytest.approx((12 / 30, 10 / 30))
