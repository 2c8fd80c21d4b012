"""`tagstream index run` on a real Kafka and a real PostgreSQL, broken on purpose."""

import random
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

from index.tests.support import enriched, expected, held, lost_and_kept, retraction, settings_of, story, with_tables
from index.tests.world import World, in_process, rows_are, turned
from tagstream_index.check import Check
from tagstream_index.database import connected
from tagstream_index.indexer import forget_removed
from tagstream_index.settings import FOR_EVER
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique
from tests.support.forked import MayFork
from tests.support.waiting import eventually
from workers.backends.kafka import describe_topics
from workers.backends.kafka.client import admin
from workers.errors import BROKEN
from workers.settings import MIB

pytestmark = pytest.mark.servers


def test_published_outcomes_are_in_the_tables(world: World) -> None:
    told = story(random.Random(1), subjects=300, length=4)
    world.publish(told, random.Random(2))
    world.publish([(b"photos/x", None), (b"photos/y", b"{")])
    notes = world.command("run", "--until-idle", "1").notes
    assert held(world.tables) == expected(told)
    assert f"{world.topic}:" in world.ask("select last_error from state")
    assert "passed over" in notes
    said = world.command("status", "--json").json
    live = sum(not row[2] for row in expected(told).values())
    assert (said["lag"], said["images"], len(said["partitions"])) == (0, live, 3)
    assert said["last_error"] == world.ask("select last_error from state")
    assert f"{live:,} images" in world.command("status").done


def test_a_second_run_begins_where_the_tables_are(world: World) -> None:
    world.publish([enriched("a", 1)])
    assert world.command("run", "--until-idle", "1").code == 0
    world.tables.execute("delete from image")
    world.publish([enriched("b", 1)])
    assert world.command("run", "--until-idle", "1").code == 0
    assert held(world.tables).keys() == {"photos/b"}


def page_of(url: str) -> str:
    return subprocess.run(["curl", "-s", f"{url}/metrics"], capture_output=True, text=True).stdout


def test_it_runs_without_torch_and_says_how_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MayFork, "forks", False)
    with world.indexer() as indexer:
        assert "libtorch" not in Path(f"/proc/{indexer.pid}/maps").read_text()
        world.publish([enriched("a", 1)])
        eventually(lambda: world.ask("select count(*) from image") == 1)
        shown = (
            'tagstream_index_records_total{kind="outcome"} 1.0',
            f'tagstream_index_lag{{topic="{world.topic}"}} 0.0',
        )
        eventually(lambda: all(line in page_of(indexer.url) for line in shown))
        indexer.stop()
        indexer.must_have_ended_well()


def test_killed_restarted_and_moved_nothing_is_lost_or_older(
    kafka: ApacheKafka, own_postgresql: PostgreSQL, unique: Unique, tmp_path: Path
) -> None:
    with closing(World(kafka, own_postgresql, unique("index"), tmp_path, {"cleanup.policy": "compact"})) as made:
        kill_and_move(made)


def kill_and_move(compacted: World) -> None:
    rng = random.Random(3)
    told = story(rng, subjects=1_500, length=4)
    small = {"TAGSTREAM_INDEX_BATCH": "50"}
    first, second = compacted.indexer("first", **small), compacted.indexer("second", **small)
    first.start()
    for place in range(0, len(told), len(told) // 6 + 1):
        compacted.publish(told[place : place + len(told) // 6 + 1], rng)
        if place == 0:
            second.start()
        time.sleep(rng.random())
        victim = rng.choice([first, second])
        if rng.random() < 0.5:
            victim.kill()
            victim.launch()
    compacted.server.kill()
    compacted.publish(told[:200], rng)
    time.sleep(1)
    compacted.server.start()
    compacted.reconnect()
    first.kill()
    eventually(rows_are(compacted, told), timeout_s=100, why=lambda: second.log_tail(40))
    report = Check(compacted.settings).run()
    assert (report["differing"], report["rows_explained"]) == (0, True)


def test_a_database_that_is_away_is_waited_for_in_bounded_memory(world: World, tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "own") as own:
        settings = world.settings.model_copy(update={"index_dsn": settings_of(own, "x").index_dsn})
        with closing(with_tables(settings)):
            pass
        indexer = world.indexer(TAGSTREAM_INDEX_DSN=own.dsn).start()
        own.stop()
        eventually(lambda: not indexer.is_ready())
        told = [enriched(f"{n}", 1, caption="x" * 5_000) for n in range(4_000)]
        world.publish(told)
        time.sleep(3)
        status = Path(f"/proc/{indexer.pid}/status").read_text()
        (kilobytes,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert kilobytes * 1024 < 400 * MIB
        own.start()
        eventually(indexer.is_ready)
        with closing(connected(settings, made=False)) as tables:
            eventually(lambda: tables.execute("select count(*) from image").fetchone() == (len(told),), timeout_s=60)


def test_an_aborted_transaction_is_never_in_the_tables(world: World) -> None:
    lost_and_kept(world.kafka.servers, world.topic)
    assert world.command("run", "--until-idle", "1").code == 0
    assert held(world.tables).keys() == {"photos/kept"}
    assert world.command("status", "--json").json["lag"] == 0


def topic_is_made_again(world: World) -> bool:
    world.make_topic()
    return bool(describe_topics(world.kafka.servers, {world.topic: ()}))


@pytest.mark.parametrize("how", ["made anew", "lost records"])
def test_a_topic_other_than_the_tables_is_refused(world: World, how: str) -> None:
    world.publish([enriched("a", 1)])
    assert world.command("run", "--until-idle", "1").code == 0
    if how == "made anew":
        with admin(world.kafka.servers, {}) as client:
            client.delete_topics([world.topic])
        eventually(lambda: topic_is_made_again(world))
    else:
        world.tables.execute("update progress set next_offset = 1000000")
    assert "tagstream index rebuild" in world.command("run", "--until-idle", "1").fails(BROKEN)
    world.publish([enriched("b", 1)])
    assert world.command("rebuild", "--partial", "--go").code == 0
    assert world.command("run", "--until-idle", "1").code == 0
    assert held(world.tables).keys() == ({"photos/b"} if how == "made anew" else {"photos/a", "photos/b"})


def test_without_tables_it_says_which_command_makes_them(world: World) -> None:
    world.tables.execute(f"drop schema {world.settings.index_schema} cascade".encode())
    assert "tagstream index init" in world.command("run").fails()
    assert "migrations run" in world.command("init", "--language", "simple").done
    assert "nothing to do" in world.command("init").done


def test_an_indexer_that_lost_its_partitions_cant_set_them_back(world: World) -> None:
    world.publish([enriched("a", 1)])
    indexer = in_process(world)
    turned(indexer, lambda: world.ask("select count(*) from image") == 1)
    place, offset = world.tables.execute(
        "select partition, next_offset from progress where next_offset > 0"
    ).fetchone() or (0, 0)
    world.publish([enriched("a", 2, caption="by us")])
    # Another indexer, the partition's new owner, is ahead already.
    world.tables.execute("update progress set next_offset = %s where partition = %s", (offset + 1, place))
    for _ in range(10):
        indexer.turn()
    assert held(world.tables)["photos/a"][0] == 1
    world.publish([enriched("a", 3)])
    turned(indexer, lambda: held(world.tables)["photos/a"][0] == 3)
    assert world.ask(f"select next_offset from progress where partition = {place}") == offset + 2


def test_a_batch_that_takes_too_long_is_written_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagstream_index.indexer.connected", partial(connected, statement_s=1))
    world.tables.execute(
        """create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.02); return new; end';
        create trigger slow before insert on image for each row execute function slow()"""
    )
    world.publish([enriched(f"{n}") for n in range(100)])
    indexer = in_process(world)
    turned(indexer, lambda: world.ask("select count(*) from image") == 100)


def test_it_is_not_ready_until_something_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish([enriched("a", 1)])
    indexer = in_process(world)

    def fails(*_: object) -> None:
        raise psycopg.OperationalError("too slow")

    monkeypatch.setattr("tagstream_index.merge.store", fails)
    turned(indexer, lambda: "too slow" in (indexer.unready() or ""))
    until = time.monotonic() + 3
    while time.monotonic() < until:
        indexer.turn()
        assert "too slow" in (indexer.unready() or "")
    monkeypatch.undo()
    turned(indexer, lambda: indexer.unready() is None)
    assert world.ask("select count(*) from image") == 1


def test_it_is_not_idle_while_records_are_known_to_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish([enriched("a", 1)])
    indexer = in_process(world)
    turned(indexer, lambda: indexer.idle_s() > 0)
    assert world.ask("select count(*) from image") == 1
    source = indexer._source
    ends = {place: end + 1 for place, end in source.ends().items()}
    monkeypatch.setattr(source, "ends", lambda: ends)
    assert indexer.idle_s() == 0


def test_a_record_that_postgresql_refuses_is_passed_over_alone(world: World) -> None:
    told = [enriched(f"{n}", 1) for n in range(20)]
    world.tables.execute("alter table image add check (key <> '7')")
    world.publish(told)
    indexer = in_process(world)
    turned(indexer, lambda: world.ask("select count(*) from image") == 19)
    assert "PostgreSQL refuses it" in world.ask("select last_error from state")


def test_removed_images_are_forgotten_after_their_time(world: World) -> None:
    world.publish([enriched("kept", 1), retraction("old", 1), retraction("new", 1), retraction("v", 1, version_id="1")])
    indexer = in_process(world)
    turned(indexer, lambda: world.ask("select count(*) from image") == 3)
    world.tables.execute("update image set changed_at = now() - interval '2 hours' where key <> 'new'")
    world.tables.execute("update gone_version set changed_at = now() - interval '2 hours'")
    forget_removed(world.tables, FOR_EVER)
    assert held(world.tables).keys() == {"photos/kept", "photos/new", "photos/old"}
    forget_removed(world.tables, 3600.0)
    assert held(world.tables).keys() == {"photos/kept", "photos/new"}
    assert world.ask("select count(*) from gone_version") == 0
