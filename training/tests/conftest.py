"""Runs without pictures of curves, which would take longer than many of them."""

from collections.abc import Iterator

import pytest

from tagstream_train import record

_DRAW = record.draw


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "draw", lambda lines, path: None)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that looks at the pictures."""
    monkeypatch.setattr(record, "draw", _DRAW)
