"""`tagstream forget` in the tables of the index, on a real Kafka and a real PostgreSQL."""

import json
from typing import Any

import pytest

from index.tests.support import enriched, held, retraction, vector_of
from index.tests.world import World, in_process, turned
from tagstream_index import left_out
from tagstream_index.check import Check
from tagstream_index.database import LOCK
from tagstream_index.forgotten import IndexRows
from tagstream_index.indexer import Indexer
from tagstream_index.rebuild import Rebuild
from workers.backends.kafka import extents
from workers.errors import Unavailable
from workers.republish.forgetting import Subjects
from workers.types import Partition

pytestmark = pytest.mark.servers


def forget(world: World, *arguments: str, **others: str) -> dict[str, Any]:
    own = {"TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:9", "TAGSTREAM_GROUP": world.topic}
    own["TAGSTREAM_STATE_DIR"] = str(world.folder / "state")
    ran = world.tagstream("forget", *arguments, "--json", **own, **others)
    assert ran.code == ("--verify" in arguments), ran.err  # the topic keeps names until it is compacted
    report: dict[str, Any] = json.loads(ran.out)
    return report


def indexed(world: World, indexer: Indexer) -> None:
    """Let it turn until all of the topic is in the tables."""
    ends = {place.number: extent.end for place, extent in extents(world.kafka.servers, [world.topic]).items()}
    offsets = "select partition, next_offset from progress"
    turned(indexer, lambda: dict(world.tables.execute(offsets.encode()).fetchall()) == ends)


def everything(world: World) -> str:
    schema = world.settings.index_schema
    tables = world.tables.execute("select tablename from pg_tables where schemaname = %s", (schema,)).fetchall()
    rows = (world.tables.execute(f"select t::text from {schema}.{name} t".encode()).fetchall() for (name,) in tables)
    return str(list(rows))


def test_the_name_goes_from_all_tables_and_late_records_of_it_still_lose(compacted: World) -> None:
    said = {"added": ["dog"], "removed": [], "by": ["a secret person"]}
    told = [
        enriched("secret", 5, vector=vector_of(1), corrections=said),
        enriched("kept", 5, vector=vector_of(2)),
        retraction("gone", 5),
    ]
    compacted.publish(told)
    indexer = in_process(compacted)
    indexed(compacted, indexer)
    left_out.note(compacted.tables, [left_out.LeftOut(Partition(compacted.topic, 0), 7, "why")])
    before = held(compacted.tables)
    dry = forget(compacted, "photos/secret", "--keep-object")
    schema = compacted.settings.index_schema
    assert dry["rows"] == dict.fromkeys((f"{schema}.{name}" for name in ("embedding_1", "history", "image")), 1)
    assert held(compacted.tables) == before
    done = forget(compacted, "photos/secret", "--keep-object", "--go")
    assert done["finished"]
    left = forget(compacted, "photos/secret", "--verify")["found"]
    assert left.keys() == {compacted.topic}
    assert "secret" not in everything(compacted)
    assert compacted.ask("select count(*) from left_out") == 0
    assert any("search pages" in each["place"] and each["until"] for each in done["beyond"])
    del before["photos/secret"]
    compacted.publish([enriched("secret", 4), enriched("secret", 6)])
    indexed(compacted, indexer)  # the retraction too
    assert held(compacted.tables) == before
    assert Check(compacted.settings).run()["differing"] == 0
    Rebuild(compacted.settings, partial=False).run()
    assert held(compacted.tables) == before
    assert "secret" not in everything(compacted)
    compacted.publish([enriched("secret", 100)])
    turned(indexer, lambda: "photos/secret" in held(compacted.tables))


def test_an_unindexed_outcome_loses_too_and_a_prefix_names_images_that_the_topic_no_longer_has(
    compacted: World,
) -> None:
    compacted.publish([enriched("a/1", 5), enriched("b", 5)])
    compacted.tables.execute("insert into image select 'photos/a/old', 'photos', 'a/old', 3, true, 1, true")
    assert forget(compacted, "--prefix", "photos/a/", "--keep-object", "--go")["rows"] != {}
    compacted.publish([enriched("a/old", 3), enriched("a/1", 5), enriched("c", 1)])
    indexed(compacted, in_process(compacted))
    assert held(compacted.tables).keys() == {"photos/b", "photos/c"}


def test_a_rebuild_that_runs_is_not_passed_and_without_a_dsn_the_index_is_named_beyond_reach(compacted: World) -> None:
    place = IndexRows(compacted.settings)
    schema = compacted.settings.index_schema
    compacted.tables.execute(f'create schema "{schema}-new"; create table "{schema}-new".image (subject text)'.encode())
    compacted.tables.execute(f"insert into \"{schema}-new\".image values ('photos/a')".encode())
    chosen = Subjects(frozenset(["photos/a", "photos/\0"]))
    assert place.search(chosen) == {f"{schema}-new.image": 1}
    compacted.tables.execute("select pg_advisory_lock(%s, hashtext(%s))", (LOCK, schema))
    with pytest.raises(Unavailable, match="index rebuild"):
        place.forget(chosen, [("photos/a", 5)])
    compacted.tables.execute("select pg_advisory_unlock(%s, hashtext(%s))", (LOCK, schema))
    place.forget(chosen, [("photos/a", 5)])
    assert place.search(chosen) == {}
    report = forget(compacted, "photos/a", "--keep-object", TAGSTREAM_INDEX_DSN="")
    assert any("TAGSTREAM_INDEX_DSN is not set" in each["why"] for each in report["beyond"])
