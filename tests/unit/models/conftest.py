"""Bundles for the tests of models: the compact one, and a tiny one that needs no weights from anywhere."""

from pathlib import Path

import pytest

from tests.support.kept import kept_compact
from tests.unit.models.tiny import tiny_bundle
from workers.models.bundle import Bundle


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def compact(cache_dir: Path) -> Bundle:
    return kept_compact(cache_dir)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundles" / "tiny")
