"""The command line, run in this process."""

import os
from pathlib import Path

import pytest

from tests.support.kept import kept_compact
from tests.unit.models.small import small_bundle
from workers.models.bundle import Bundle


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the settings that a test makes, and no state outside of its folder."""
    for name in list(os.environ):
        if name.startswith(("TAGSTREAM_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder with the compact bundle."""
    folder = tmp_path_factory.mktemp("cache")
    kept_compact(folder / "tagstream")
    return folder


@pytest.fixture
def ram(tmp_path: Path) -> Bundle:
    return small_bundle("ram", tmp_path / "bundles" / "ram")


@pytest.fixture
def tag2text(tmp_path: Path) -> Bundle:
    return small_bundle("tag2text", tmp_path / "bundles" / "tag2text")
