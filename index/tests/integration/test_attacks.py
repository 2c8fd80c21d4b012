"""What a writer to the enriched topic can do to the indexer and its readers, on a real Kafka and a real PostgreSQL."""

import json

import numpy as np
import pytest

from index.tests.support import Said, enriched, vector_of, written
from index.tests.world import World
from tagstream_index.check import Check
from tagstream_index.database import Connection
from tagstream_index.page import finding
from tagstream_index.page.query import read
from tagstream_index.searching import Embedding, search

pytestmark = pytest.mark.servers


def photo(key: str, *names: str) -> Said:
    return enriched(key, tags=[(name, 0.75) for name in names], vector=vector_of(1), space="clip")


@pytest.mark.parametrize("moment", ["10000-01-01", "0001-12-31 BC"])
def test_a_row_whose_time_python_can_not_hold_is_passed_over_by_every_reader(tables: Connection, moment: str) -> None:
    written(tables, photo("good.jpg", "dog"), photo("bad.jpg", "dog"))
    tables.execute("update image set last_modified = %s where key = 'bad.jpg'", (moment,))
    tables.execute("insert into progress values ('t', 0, 'id', 5, %s)", (moment,))
    near = Embedding("clip", np.frombuffer(vector_of(1), "<f2"))
    for found in (search("dog", connection=tables), search(connection=tables), search(like=near, connection=tables)):
        assert [each.key for each in found] == ["good.jpg"]
    assert [each.key for each in finding.find(tables, read("dog"), "best", limit=5).tiles] == ["good.jpg"]
    assert finding.find(tables, read("tag:dog"), "new", limit=5).tiles[0].key == "good.jpg"
    assert finding.tiles(tables, ["photos/good.jpg", "photos/bad.jpg"]).keys() == {"photos/good.jpg"}
    assert [each.key for each in finding.similar(tables, "photos/bad.jpg")] == ["good.jpg"]
    assert finding.similar(tables, "photos/good.jpg") == []
    assert finding.freshness(tables) is None


def test_check_names_the_row_that_is_passed_over_and_status_tells_no_such_time(world: World) -> None:
    world.publish([enriched("good.jpg"), enriched("bad.jpg")])
    assert world.command("run", "--until-idle", "1").returncode == 0
    world.tables.execute("update image set last_modified = '10000-01-01' where key = 'bad.jpg'")
    world.tables.execute("update progress set record_at = '0044-03-15 BC'")
    (named,) = Check(world.settings, 10).run()["subjects"]
    assert named == {"subject": "photos/bad.jpg", "fields": ["last_modified", "last_modified can't be read"]}
    said = world.command("status", "--json")
    assert said.returncode == 0, said.stderr
    assert {each["record_at"] for each in json.loads(said.stdout)["partitions"]} == {None}
