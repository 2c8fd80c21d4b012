"""`tagstream index rebuild` and `index check` on a real Kafka and a real PostgreSQL."""

import random
import threading
from typing import Any

import pytest

from index.tests.support import enriched, held, retraction, story, vector_of
from index.tests.world import World, rows_are
from tagstream_index.check import Check
from tagstream_index.rebuild import Rebuild
from tests.support.waiting import eventually
from workers.backends.kafka import TopicState
from workers.errors import Broken, Misconfigured, Unavailable
from workers.settings import Settings

pytestmark = pytest.mark.servers

READ = Check._read


def rebuild(world: World, *, partial: bool = False) -> dict[str, Any]:
    return Rebuild(world.settings, partial=partial).run()


def differing(world: World) -> dict[str, list[str]]:
    report = Check(world.settings).run()
    assert report["differing"] == len(report["subjects"])
    return {each["subject"]: each["fields"] for each in report["subjects"]}


def indexes(world: World) -> set[tuple[str, ...]]:
    query = "select indexname, indexdef from pg_indexes where schemaname = %s"
    return set(world.tables.execute(query, (world.settings.index_schema,)).fetchall())


def unfinished(world: World) -> bool:
    new = f"{world.settings.index_schema}-new"
    return bool(world.ask(f"select count(*) from pg_namespace where nspname = '{new}'"))


def test_new_tables_match_the_topic_and_check_finds_differences(compacted: World) -> None:
    told = story(random.Random(7), subjects=400, length=4)
    told += [enriched(f"v{n}", 1, vector=vector_of(n)) for n in range(20)]
    compacted.publish(told, random.Random(8))
    compacted.publish([(b"photos/x", None), (b"photos/y", b"{")])
    with compacted.indexer() as indexer:
        eventually(rows_are(compacted, told), timeout_s=60, why=lambda: indexer.log_tail(40))
    before, made = held(compacted.tables), indexes(compacted)
    assert differing(compacted) == {}
    compacted.tables.execute("update image set caption = 'forged' where not gone and subject like '%7.jpg'")
    compacted.tables.execute("delete from image where key = 'v1'")
    checked = compacted.command("check")
    assert (checked.code, "photos/v1: embedding, not in the tables" in checked.out) == (1, True), checked.out
    tried = compacted.command("rebuild", "--json").json
    assert (tried["images"], compacted.ask("select count(*) from image where caption = 'forged'") > 0) == (
        compacted.ask("select count(*) from image where not gone"),
        True,
    )
    report = compacted.command("rebuild", "--go", "--json").json
    assert held(compacted.tables) == before
    assert (report["images"], report["records"]) == (sum(not row[2] for row in before.values()), len(told))
    assert report["unreadable"] == 1
    assert indexes(compacted) == made
    assert not unfinished(compacted)
    assert differing(compacted) == {}


def test_each_way_of_being_wrong_is_named(compacted: World) -> None:
    told = [enriched(f"{n}", 5, vector=vector_of(n)) for n in range(9)]
    compacted.publish([*told, retraction("gone", 5), enriched("void", 5, version_id="v")])
    compacted.publish([retraction("void", 6, version_id="v")])
    rebuild(compacted)
    for forged in (
        "image set scores[1] = 0.9, tags = '[]' where key = '1'",
        "image set version = 9 where key = '2'",
        "image set version = 4 where key = '3'",
        "image set gone = true where key = '4'",
        "image set gone = false where key = 'gone'",
        "embedding_1 set vector = (select vector from embedding_1 where subject like '%/7') where subject like '%/6'",
    ):
        compacted.tables.execute(f"update {forged}".encode())
    compacted.tables.execute("delete from embedding_1 where subject like '%/7'")
    compacted.tables.execute("delete from image where key = '8'")
    compacted.tables.execute(
        "insert into image (subject, bucket, key, version, published, produced_at, gone)"
        " values ('photos/new', 'photos', 'new', 1, true, 1, false)"
    )
    wrong = {
        "photos/1": ["scores", "tags"],
        "photos/2": ["newer than the topic"],
        "photos/3": ["version"],
        "photos/4": ["embedding", "gone"],
        "photos/6": ["embedding"],
        "photos/7": ["embedding"],
        "photos/8": ["embedding", "not in the tables"],
        "photos/gone": ["gone"],
        "photos/new": ["not in the topic"],
    }
    assert differing(compacted) == wrong


def test_a_record_that_is_not_indexed_yet_is_not_compared(compacted: World) -> None:
    compacted.publish([enriched("a", 1), enriched("b", 1)])
    rebuild(compacted)
    compacted.publish([enriched("a", 2), enriched("c", 1)])
    assert differing(compacted) == {}
    assert Check(compacted.settings).run()["compared"] == 2


def test_a_record_that_is_indexed_meanwhile_is_compared_too(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted.publish([enriched("a", 1)])
    rebuild(compacted)

    def beside(*arguments: Any) -> None:
        READ(*arguments)
        monkeypatch.undo()
        compacted.publish([enriched("a", 2), enriched("b", 1)])
        eventually(lambda: compacted.ask("select count(*) from image") == 2)

    with compacted.indexer():
        monkeypatch.setattr(Check, "_read", beside)
        assert differing(compacted) == {}


def test_a_removal_that_the_topic_does_not_tell_any_more_is_remembered(compacted: World) -> None:
    compacted.publish([enriched("a", 1, vector=vector_of(1)), enriched("b", 1), enriched("v", 1, version_id="v")])
    rebuild(compacted)
    compacted.tables.execute("update image set gone = true, version = 7 where key = 'a'")
    compacted.tables.execute("delete from embedding_1")
    compacted.tables.execute("insert into image select 'photos/x', 'photos', 'x', 3, true, 1, true")
    compacted.publish([retraction("v", 2, version_id="v")])
    rebuild(compacted)
    assert differing(compacted) == {}
    rebuild(compacted)
    assert {subject: row[::2] for subject, row in held(compacted.tables).items()} == {
        "photos/a": (7, True, None),
        "photos/b": (1, False, None),
        "photos/v": (1, True, None),
        "photos/x": (3, True, None),
    }


def test_a_topic_that_may_lack_outcomes_is_refused_unless_partial(world: World) -> None:
    world.publish([enriched("a", 1)])
    rebuild(world, partial=True)
    assert "--partial" in world.command("rebuild").fails()
    world.tables.execute("insert into image select 'photos/old', 'photos', 'old', 1, true, 1, false")
    report = Check(world.settings).run()
    assert (report["differing"], report["rows_explained"]) == (0, False)
    assert rebuild(world, partial=True)["images"] == 1


def test_a_running_indexer_continues_with_the_new_tables(compacted: World) -> None:
    """Also where a space has another number in them."""
    with compacted.indexer() as indexer:
        for number, space in enumerate(("space-b", "space-a")):
            compacted.publish([enriched(space, 1, vector=vector_of(1), space=space)])
            eventually(lambda: compacted.ask("select count(*) from space") == number + 1)  # noqa: B023
        rebuild(compacted)
        assert compacted.ask("select name from space where number = 1") == "space-a"
        told = [enriched(f"{n}", 1, vector=vector_of(n), space=f"space-{'ab'[n % 2]}") for n in range(20)]
        compacted.publish(told)
        eventually(lambda: compacted.ask("select count(*) from image") == 22, why=lambda: indexer.log_tail(40))
        assert (
            compacted.ask("select count(*) from embedding_1") == compacted.ask("select count(*) from embedding_2") == 11
        )
        assert differing(compacted) == {}
        assert indexer.is_ready()


def test_an_interrupted_rebuild_leaves_the_old_tables_and_the_next_starts_again(
    compacted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [enriched("a", 1)]
    compacted.publish(told)
    rebuild(compacted)
    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, "_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rebuild(compacted)
    assert unfinished(compacted)
    assert rows_are(compacted, told)()
    assert rebuild(compacted)["images"] == 1
    assert not unfinished(compacted)


def test_rights_stay_and_views_stop_it_before_it_reads(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, reader = compacted.settings.index_schema, f"{compacted.settings.index_schema}_reader"
    compacted.publish([enriched("a", 1, vector=vector_of(1))])
    rebuild(compacted)
    grants = f"grant select on image to {reader}; grant select (subject) on history to {reader}"
    compacted.tables.execute(f"create role {reader}; {grants}".encode())
    compacted.tables.execute("create view seen as select subject from image")
    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, "_read", None)
        with pytest.raises(Misconfigured, match=f"view {schema}.seen"):
            rebuild(compacted)
        compacted.tables.execute("drop view seen; alter table image enable row level security")
        with pytest.raises(Misconfigured, match="'image' has row security"):
            rebuild(compacted)
    compacted.tables.execute("alter table image disable row level security; create table mine (n integer)")
    rebuild(compacted)
    assert compacted.ask(f"select has_table_privilege('{reader}', '{schema}.image', 'select')")
    assert compacted.ask(f"select has_column_privilege('{reader}', '{schema}.history', 'subject', 'select')")
    assert not compacted.ask(f"select has_column_privilege('{reader}', '{schema}.history', 'outcomes', 'select')")
    assert compacted.ask("select count(*) from mine") == 0


def test_two_at_once_are_refused(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted.publish([enriched("a", 1)])
    monkeypatch.setattr("tagstream_index.rebuild._WAIT_S", 0.2)
    index_it = Rebuild._index
    told: list[str] = []

    def another(self: Rebuild, definitions: list[str]) -> None:
        with pytest.raises(Misconfigured) as refused:
            rebuild(compacted)
        told.append(str(refused.value))
        index_it(self, definitions)

    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, "_index", another)
        assert rebuild(compacted)["images"] == 1
    assert "another" in told[0]


def test_a_topic_that_is_recreated_meanwhile_is_not_used(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["a", "a", "b"])

    def state_of(settings: Settings, topic: str) -> TopicState:
        return TopicState(3, 1, {"cleanup.policy": "compact"}, next(ids))

    compacted.publish([enriched("a", 1)])
    monkeypatch.setattr("tagstream_index.rebuild.state_of", state_of)
    with pytest.raises(Broken, match="made anew"):
        rebuild(compacted)
    assert held(compacted.tables) == {}


def test_tables_that_are_in_use_are_waited_for(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted.publish([enriched("a", 1)])
    monkeypatch.setattr("tagstream_index.rebuild._SWAP_WAIT_S", 0.2)
    compacted.tables.execute("begin")
    compacted.tables.execute("select count(*) from image")
    with monkeypatch.context() as patch:
        patch.setattr("tagstream_index.rebuild._SWAP_TRIES", 2)
        with pytest.raises(Unavailable, match="hold the tables"):
            rebuild(compacted)
    threading.Timer(1, compacted.tables.execute, args=("rollback",)).start()
    assert rebuild(compacted)["images"] == 1


def test_a_check_tells_that_tables_were_swapped_meanwhile(compacted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted.publish([enriched("a", 1)])
    rebuild(compacted)

    def swapped(*arguments: Any) -> None:
        READ(*arguments)
        rebuild(compacted)

    monkeypatch.setattr(Check, "_read", swapped)
    with pytest.raises(Unavailable, match="swapped"):
        differing(compacted)
