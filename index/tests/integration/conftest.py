"""The world of the index's tests."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.world import World
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique


@pytest.fixture
def world(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    with closing(World(kafka, postgresql, unique("index"), tmp_path)) as made:
        yield made


@pytest.fixture
def compacted(kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path) -> Iterator[World]:
    """A world whose topic is compacted."""
    with closing(World(kafka, postgresql, unique("index"), tmp_path, {"cleanup.policy": "compact"})) as made:
        yield made
