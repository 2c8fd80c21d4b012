"""The alert about the index fires while PostgreSQL is away; see `test_alerts` for the rules' times."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.support import enriched
from index.tests.world import World
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tests.dashboards.watching import RULES, assert_fires, assert_over, firing, place
from tests.fixtures import Unique, up_or_skip
from tests.support.prometheus import Prometheus, shortened

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(900)]

BY = 30


@pytest.fixture
def watched(scratch: Scratch) -> Iterator[Prometheus]:
    rules = shortened(RULES, BY, scratch.path / "shortened-index.yaml")
    yield from up_or_skip(Prometheus(scratch.path / "watching-index", rules, every_s=2))


def test_a_database_that_is_away(kafka: ApacheKafka, watched: Prometheus, unique: Unique, tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "own") as own, closing(World(kafka, own, unique("alert"), tmp_path)) as world:
        world.publish([enriched("a", 1)])
        indexer = world.indexer().start()
        watched.scrape(index=[place(indexer)])
        own.stop()
        assert_fires(watched, "TagstreamIndexNotWritten")
        assert firing(watched) == {"TagstreamIndexNotWritten"}
        own.start()
        assert_over(watched, "TagstreamIndexNotWritten")
