"""The pages of metrics, read as Prometheus' own library reads them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families


def read_text(page: str) -> Sequence[Metric]:
    """Prometheus' text format.

    Raises:
        ValueError: it is none.
    """
    return list(text_string_to_metric_families(page))


def read_open_metrics(page: str) -> Sequence[Metric]:
    """OpenMetrics 1.0.

    Raises:
        ValueError: it is none.
    """
    return list(open_metrics.text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
