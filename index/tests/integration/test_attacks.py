"""Attacks of a writer to the enriched topic on the indexer and its readers, on a real Kafka and a real PostgreSQL."""

from collections.abc import Iterable
from contextlib import closing

import numpy as np
import psycopg
import pytest

from index.tests.support import Said, enriched, held, vector_of, with_tables, written
from index.tests.world import World, in_process, rows_are, turned
from tagstream_index import Embedding, Query, connected, left_out, search
from tagstream_index.check import Check
from tagstream_index.database import Connection, grant_reading, init
from tagstream_index.merge import MOST_SPACES, STAGING
from tagstream_index.page import finding
from tagstream_index.rebuild import Rebuild
from tagstream_index.searching import searching
from workers.backends.kafka import KafkaEmitter
from workers.settings import SecretUrl
from workers.types import Partition

pytestmark = pytest.mark.servers


def photo(key: str, *names: str) -> Said:
    return enriched(key, tags=[(name, 0.75) for name in names], vector=vector_of(1), space="clip")


@pytest.mark.parametrize("moment", ["10000-01-01", "0001-12-31 BC"])
def test_every_reader_leaves_out_a_row_with_a_time_outside_pythons_range(tables: Connection, moment: str) -> None:
    written(tables, photo("good.jpg", "dog"), photo("bad.jpg", "dog"))
    tables.execute("update image set last_modified = %s where key = 'bad.jpg'", (moment,))
    tables.execute("insert into progress values ('t', 0, 'id', 5, %s)", (moment,))
    near = Embedding("clip", np.frombuffer(vector_of(1), "<f2"))
    for query in (Query("dog"), Query(), Query(like=near), Query("dog", about=near), Query(tags=["dog"])):
        assert [each.key for each in search(query, tables)] == ["good.jpg"]
    with searching(tables) as searcher:
        assert searcher.of_subjects(["photos/good.jpg", "photos/bad.jpg"]).keys() == {"photos/good.jpg"}
        assert [each.key for each in finding.similar(searcher, "photos/bad.jpg")] == ["good.jpg"]
        assert finding.similar(searcher, "photos/good.jpg") == []
        assert finding.freshness(searcher) is None


def test_check_names_the_row_that_is_passed_over_and_status_tells_no_such_time(world: World) -> None:
    world.publish([enriched("good.jpg"), enriched("bad.jpg")])
    assert world.command("run", "--until-idle", "1").code == 0
    world.tables.execute("update image set last_modified = '10000-01-01' where key = 'bad.jpg'")
    world.tables.execute("update progress set record_at = '0044-03-15 BC'")
    (named,) = Check(world.settings).run()["subjects"]
    assert named == {"subject": "photos/bad.jpg", "fields": ["last_modified", "last_modified can't be read"]}
    assert {each["record_at"] for each in world.command("status", "--json").json["partitions"]} == {None}


LONG_AGO_MS = -(10**15)


def publish_at(world: World, timestamp_ms: int, told: Iterable[tuple[bytes, bytes | None, int]]) -> None:
    """Send keys and values with headers of this many bytes, all at one time."""
    with KafkaEmitter(world.kafka.servers, timeout_s=200) as emitter:
        for key, value, size in told:
            headers = [("h", bytes(size))]
            emitter._waiting.append(emitter._producer.send(world.topic, value, key, headers, timestamp_ms=timestamp_ms))
        emitter.flush()


def test_records_with_impossible_times_stop_neither_run_nor_rebuild(compacted: World) -> None:
    good = enriched("good")
    publish_at(compacted, LONG_AGO_MS, ((b"photos/%d" % n, None, 22_000) for n in range(600)))
    publish_at(compacted, LONG_AGO_MS, [(good.key, good.value, 0)])
    assert "trying again" not in compacted.command("run", "--until-idle", "1").notes
    assert rows_are(compacted, [good])()
    assert compacted.ask("select max(record_at) from progress") is None
    compacted.publish([enriched("dated")])
    assert compacted.command("rebuild", "--go").code == 0
    assert compacted.ask("select count(*) from image") == 2
    assert compacted.ask("select count(record_at) from progress") == 1


def test_a_left_out_record_is_listed_by_its_place_and_a_reason_without_names(compacted: World) -> None:
    tags = [{"name": "dog", "score": 0.5, "label_id": 1, "translations": {"Jane Doe": 5}}]
    bad = [enriched("a").but(tags=tags), enriched("b").but(subject="photos/other"), enriched("c")]
    compacted.tables.execute("alter table image add check (key <> 'c')")
    compacted.publish([*bad, enriched("good"), (b"photos/y", b"{")])
    assert compacted.command("run", "--until-idle", "1").code == 0
    status = compacted.command("status", "--json").json["left_out"]
    reasons = sorted(each["reason"] for each in status)
    assert [reason.partition(":")[0] for reason in reasons] == [
        "PostgreSQL refuses it",
        "Value error, the subject is bucket/key of the source",
        "tags.0.translations",
        "unexpected end of data",
    ]
    assert not any(secret in str(reasons) for secret in ("Jane", "photos/", "other"))
    places = {(each["partition"], each["offset"]) for each in status}
    read = Check(compacted.settings).run()["left_out"]
    assert {(each["partition"], each["offset"]) for each in read} == places
    assert "left out: partition" in compacted.command("status").done
    assert "left out: partition" in compacted.command("check").out
    assert Rebuild(compacted.settings, partial=False).run()["images"] == 2  # the new tables have no such check
    rebuilt = compacted.command("status", "--json").json["left_out"]
    assert {(each["partition"], each["offset"]) for each in rebuilt} < places
    assert len(rebuilt) == 3


def test_of_each_partition_the_newest_thousand_are_remembered(tables: Connection) -> None:
    for number in (0, 1):
        left_out.note(tables, [left_out.LeftOut(Partition("t", number), at, "why") for at in range(700)])
        left_out.note(tables, [left_out.LeftOut(Partition("t", number), at, "why") for at in range(700, 1_002)])
    query = "select partition, count(*), min(record_offset) from left_out group by 1 order by 1"
    assert tables.execute(query).fetchall() == [(0, 1_000, 2), (1, 1_000, 2)]


def rubbish(number: int, version: int = 1) -> Said:
    return enriched(f"rubbish-{number}", version, vector=vector_of(1), space=f"rubbish-{number}")


def test_spaces_that_no_image_has_make_room_for_new_ones_and_status_counts_them(world: World) -> None:
    tables = world.tables
    written(tables, *(rubbish(number) for number in range(MOST_SPACES)))
    written(tables, enriched("early", vector=vector_of(2), space="honest"))
    tables.execute("update space set made_at = now() - interval '2 hours' where name <> 'rubbish-3'")
    written(tables, *(enriched(f"rubbish-{number}", 2) for number in (3, 7)))
    told = world.command("status").done
    assert "vectors of rubbish-7, 8 dimensions: 0 images" in told
    assert f"vectors of other spaces are left out: {MOST_SPACES} are kept" in told
    indexer = in_process(world)
    world.publish([enriched("before", vector=vector_of(2), space="rubbish-5")])
    turned(indexer, lambda: "photos/before" in held(tables))
    written(tables, enriched("late", vector=vector_of(2), space="honest"), rubbish(90), rubbish(91))
    spaces = {name for (name,) in tables.execute("select name from space")}
    assert spaces == {f"rubbish-{number}" for number in range(MOST_SPACES) if number != 7} | {"honest"}
    assert held(tables)["photos/late"][4] == vector_of(2)
    world.publish([enriched("after", vector=vector_of(3), space="rubbish-5")])  # by who knew the old tables
    turned(indexer, lambda: held(tables).get("photos/after", [None])[-1] == vector_of(3))


def test_a_reader_may_read_later_tables_and_those_of_a_rebuild_and_write_nothing(compacted: World) -> None:
    role = f"{compacted.settings.index_schema}_page"
    assert f"no role '{role}'" in compacted.command("init", "--reader", role).fails()
    compacted.tables.execute(f"create role {role} login".encode())
    assert compacted.command("init", "--reader", role).code == 0
    compacted.publish([enriched(f"{n}", tags=[("dog", 0.75)], vector=vector_of(n), space=f"s{n}") for n in range(2)])
    assert compacted.command("run", "--until-idle", "1").code == 0
    Rebuild(compacted.settings, partial=False).run()
    compacted.publish([enriched("2", tags=[("dog", 0.75)], vector=vector_of(2), space="s2")])
    assert compacted.command("run", "--until-idle", "1").code == 0
    dsn = compacted.server.dsn.replace("postgres@", f"{role}@")
    with closing(connected(compacted.settings.model_copy(update={"index_dsn": SecretUrl(dsn)}))) as reader:
        assert len(search(Query("dog"), reader)) == 3
        for space in range(3):
            near = Embedding(f"s{space}", np.frombuffer(vector_of(space), "<f2"))
            assert len(search(Query(like=near), reader)) == 1
        with searching(reader) as searcher:
            assert finding.freshness(searcher) is not None
        for write in ("delete from image", "update state set last_error = 'x'", "create table own (n integer)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(write.encode())


def test_a_readers_rights_outlive_migrations_and_rebuilds_by_another_role(compacted: World) -> None:
    server, schema = compacted.server, f"{compacted.settings.index_schema}_owned"
    owner, page = f"{schema}_owner", f"{schema}_page"
    compacted.tables.execute(f"create role {owner} login; create role {page} login".encode())
    compacted.tables.execute(f"grant create on database postgres to {owner}".encode())
    dsn = SecretUrl(server.dsn.replace("postgres@", f"{owner}@"))
    owned = compacted.settings.model_copy(update={"index_dsn": dsn, "index_schema": schema, "index_group": schema})
    by_all = owned.model_copy(update={"index_dsn": compacted.settings.index_dsn})  # a superuser
    with closing(with_tables(owned)) as tables:
        grant_reading(tables, schema, page)
        tables.execute("drop table left_out; delete from migration where number = 4")
        tables.execute("alter table space drop column made_at")
        with closing(connected(by_all, made=False)) as connection:
            assert init(connection, schema, None) == [4]
    compacted.publish([enriched("0", vector=vector_of(0), space="s0")])
    assert Rebuild(by_all, partial=False).run()["images"] == 1
    with closing(connected(owned)) as tables:
        tables.execute(STAGING)
        written(tables, enriched("1", vector=vector_of(1), space="s1"))
        unread = "not has_table_privilege(%s, schemaname || '.' || tablename, 'select')"
        lacking = f"select tablename from pg_tables where schemaname = %s and ({unread} or tableowner <> %s)"
        assert tables.execute(lacking.encode(), (schema, page, owner)).fetchall() == []
        assert tables.execute("select count(*) from space").fetchone() == (2,)
