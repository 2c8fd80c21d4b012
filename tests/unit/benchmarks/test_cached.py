"""What the benchmark of cached events shows of its figures."""

from __future__ import annotations

from benchmarks.cached import Figures, cells


def test_single_events_are_shown_by_their_median_and_their_99th_percentile() -> None:
    singles = [float(number) for number in range(100, 0, -1)]
    assert cells(Figures(1234.4, 99.6, singles)) == ["1,234", "100 us", "50.5 ms", "100.0 ms"]
    assert cells(Figures(1234.4, 99.6)) == ["1,234", "100 us"]
