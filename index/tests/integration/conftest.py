"""The world of the index's tests."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.support import settings_of, with_tables
from index.tests.world import World
from tagstream_index.database import Connection
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique
from tests.support.forked import MayFork


@pytest.fixture(autouse=True, scope="module")
def forked() -> Iterator[None]:
    """Workers and indexers are forked; others are started for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MayFork, "forks", True)
        yield


@pytest.fixture
def world(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    with closing(World(kafka, postgresql, unique("index"), tmp_path)) as made:
        yield made


@pytest.fixture
def tables(postgresql: PostgreSQL, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Empty tables that commands in this process use."""
    settings = settings_of(postgresql, unique("tables").replace("-", "_"))
    monkeypatch.setenv("TAGSTREAM_INDEX_DSN", postgresql.dsn)
    monkeypatch.setenv("TAGSTREAM_INDEX_SCHEMA", settings.index_schema)
    with closing(with_tables(settings)) as connection:
        yield connection


@pytest.fixture
def compacted(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    """A world whose topic is compacted."""
    with closing(World(kafka, postgresql, unique("index"), tmp_path, {"cleanup.policy": "compact"})) as made:
        yield made
