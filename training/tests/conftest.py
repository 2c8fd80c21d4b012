"""Runs without pictures of curves, which would take longer than many of them."""

from collections.abc import Iterator

import pytest

from tagstream_train import record
from tagstream_train.fit import report

_DRAW, _CURVES = record.draw, report._curves


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "draw", lambda lines, path: None)
        patch.setattr(report, "_curves", lambda measured, aps: "")
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that looks at the pictures."""
    monkeypatch.setattr(record, "draw", _DRAW)
    monkeypatch.setattr(report, "_curves", _CURVES)
