"""Rules with times divided: what `make dashboards` lets a real Prometheus watch for."""

from __future__ import annotations

import pytest

from tests.support.shortened_rules import shortened_expression


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("rate(a_total[5m]) > 0.1", "rate(a_total[5s]) > 0.1"),
        ("increase(a_total[1h]) > 10", "increase(a_total[60s]) > 0.166667"),
        ('sum by (job) (increase(a_total{b="c"}[1h])) > 60', 'sum by (job) (increase(a_total{b="c"}[60s])) > 1'),
        ("sum without (a) (job:b:increase6h) > 600", "sum without (a) (job:b:increase6h) > 10"),
        ("a > 0.1 and job:b:increase1h > 120", "a > 0.1 and job:b:increase1h > 2"),
        ("b offset 1h > c", "b offset 60s > c"),
        ("avg_over_time((a / b)[15m:1m]) > 0.9", "avg_over_time((a / b)[15s:1s]) > 0.9"),
        ("max by (job) (tagstream_lag_seconds) > 120", "max by (job) (tagstream_lag_seconds) > 2"),
        ('max(tagstream_lag_seconds{job!~"b"}) > 3600', 'max(tagstream_lag_seconds{job!~"b"}) > 60'),
        ("job:a:ratio_rate1h > 14.4 * 0.01", "job:a:ratio_rate1h > 14.4 * 0.01"),
        ("changes(a[1m]) == 0", "changes(a[5s]) == 0"),
    ],
)
def test_times_and_what_increases_in_them_are_divided_and_nothing_else(whole: str, part: str) -> None:
    assert shortened_expression(whole, 60) == part
