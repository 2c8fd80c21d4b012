"""The page that lists every metric."""

from __future__ import annotations

from pathlib import Path

from workers import metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"


def test_the_table_of_metrics_is_up_to_date() -> None:
    """`tagstream settings --fill docs/reference/metrics.md` repairs this."""
    text = PAGE.read_text(encoding="utf-8")
    assert metrics.markdown() in text


def test_every_metric_has_a_row_with_its_labels_and_its_meaning() -> None:
    table = metrics.markdown().splitlines()
    assert len(table) == 2 + len(metrics.ALL)
    for row, metric in zip(table[2:], metrics.ALL, strict=True):
        assert f"`{metric.exposed}`" in row
        assert metric.meaning
        assert all(f"`{label}`" in row for label in metric.exposed_labels)


def test_a_counter_is_named_as_prometheus_shows_it() -> None:
    assert "| `tagstream_transactions_published_total` | counter |" in metrics.markdown()
    assert "| `messaging_client_sent_messages_total` | counter |" in metrics.markdown()
