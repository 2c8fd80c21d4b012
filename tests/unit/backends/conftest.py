"""What tests of several caches count."""

import pytest

from workers import metrics


@pytest.fixture
def causes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Of each error of the cache, in their order."""
    counted: list[object] = []
    monkeypatch.setattr(metrics.CACHE_ERRORS, "add", lambda *_, **labels: counted.append(labels["cause"]))
    return counted
