"""The world of the index's tests."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from index.tests.support import settings_of, with_tables
from index.tests.world import World
from tagstream_index.database import Connection
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique
from tests.support.forked import MayFork
from tests.unit.models import small_dual
from workers.models.bundle import Bundle
from workers.models.ram.config import CLIP_SPACE


@pytest.fixture(autouse=True, scope="module")
def forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MayFork, "forks", True)
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small CLIP that says it is of RAM's space."""
    named = {**small_dual.SIZES, "clip": replace(small_dual.SIZES["clip"], space=CLIP_SPACE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_dual, "SIZES", named)
        return small_dual.small_dual("clip", tmp_path_factory.mktemp("bundles") / "clip")


@pytest.fixture
def world(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    with closing(World(kafka, postgresql, unique("index"), tmp_path)) as made:
        yield made


@pytest.fixture
def settings(postgresql: PostgreSQL, unique: Unique) -> IndexSettings:
    return settings_of(postgresql, unique("tables").replace("-", "_"), buckets=("photos",))


@pytest.fixture
def tables(settings: IndexSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Empty tables that commands in this process use."""
    monkeypatch.setenv("TAGSTREAM_INDEX_DSN", settings.index_dsn.get_secret_value())
    monkeypatch.setenv("TAGSTREAM_INDEX_SCHEMA", settings.index_schema)
    with closing(with_tables(settings)) as connection:
        yield connection


@pytest.fixture
def compacted(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    with closing(World(kafka, postgresql, unique("index"), tmp_path, {"cleanup.policy": "compact"})) as made:
        yield made
