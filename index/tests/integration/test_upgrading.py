"""Tables of the first commit that had some are migrated, with their rows, and rebuilt from outcomes of f4c7e4b."""

import json
from base64 import b64decode
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.tests.support import enriched, written
from index.tests.world import World
from tagstream_index import Embedding, Query, connected, search
from tagstream_index.check import Check
from tagstream_index.database import init
from tagstream_index.merge import STAGING
from tagstream_index.rebuild import Rebuild
from tagstream_index.review import draw

pytestmark = pytest.mark.servers

FILES = Path(__file__).parents[3] / "tests" / "unit" / "data" / "f4c7e4b"


def test_earlier_tables_are_migrated_searched_written_and_rebuilt(compacted: World) -> None:
    settings = compacted.settings.model_copy(update={"index_schema": f"{compacted.settings.index_schema}_old"})
    earlier = (FILES / "tables.sql").read_text().replace("old.", f"{settings.index_schema}.")
    earlier = earlier.replace("SCHEMA old;", f"SCHEMA {settings.index_schema};")
    with closing(connected(settings, made=False)) as connection:
        connection.execute(earlier.encode())
        connection.execute("update progress set topic = %s", (compacted.topic,))
        assert init(connection, settings.index_schema, None) == [2, 3, 4, 5, 6, 7]
    keys = ["blue.png", "corrected.png", "partial.png", "red.png"]
    with closing(connected(settings)) as tables:
        tables.execute(STAGING)
        assert sorted(found.key for found in search(Query(), tables)) == keys
        assert [found.key for found in search(Query(tags=["blue"]), tables)] == ["blue.png"]
        near = Embedding("colours", np.array([1, 0, 0], np.float16))
        assert [found.key for found in search(Query(like=near), tables)] == ["red.png"]
        review, _ = draw(tables, "red", 10)
        assert {each.key for each in review.drawn if not each.shows} <= {"blue.png", "partial.png"}
        assert search(Query(sort="day"), tables) == search(Query(), tables)
        written(tables, enriched("removed.png", 1), enriched("new.png", 1))
        assert sorted(found.key for found in search(Query(), tables)) == [
            "blue.png",
            "corrected.png",
            "new.png",
            *keys[2:],
        ]
        lines = map(json.loads, (FILES / "messages.jsonl").read_text().splitlines())
        compacted.publish(
            (b64decode(each["key"]), b64decode(each["value"])) for each in lines if each["is"] == "images.enriched"
        )
    assert Rebuild(settings, partial=False).run()["images"] == 4
    assert Check(settings).run()["differing"] == 0
