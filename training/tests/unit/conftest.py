"""Runs without a picture of their curves, which would take longer than many of them."""

import pytest

from tagstream_train import record


@pytest.fixture
def drawn() -> None:
    """For a test that looks at the picture."""


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(record, "draw", lambda lines, path: None)
