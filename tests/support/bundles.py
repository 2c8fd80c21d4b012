"""A pytest plugin: small bundles of random weights, made once. No test changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workers.models.bundle import Bundle
    from workers.models.ram.config import Kind


def _made(kind: Kind, factory: pytest.TempPathFactory) -> Bundle:
    from tests.unit.models.small import small_bundle  # here, because torch takes seconds to load

    return small_bundle(kind, factory.mktemp("bundles") / kind)


@pytest.fixture(scope="session")
def ram(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _made("ram", tmp_path_factory)


@pytest.fixture(scope="session")
def ram_plus(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _made("ram_plus", tmp_path_factory)


@pytest.fixture(scope="session")
def tag2text(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _made("tag2text", tmp_path_factory)
