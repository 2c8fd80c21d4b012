"""The tables on a real PostgreSQL: made, migrated, merged into, and equal to a model whatever the order."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from psycopg.types.json import Json

from index.tests.support import enriched, expected, held, retraction, story, vector_of, with_tables, written
from tagstream_index import database
from tagstream_index.database import Connection, connected, init, limited, migrations, require_tables
from tagstream_index.merge import MOST_SPACES, Move, Moved, Spaces, advance, merge, serialise_versions
from tagstream_index.settings import IndexSettings
from workers.errors import Misconfigured, Unavailable
from workers.settings import SecretUrl
from workers.types import Partition

pytestmark = pytest.mark.servers

NUMBERS = [number for number, _ in migrations()]


def one(connection: Connection, query: str) -> object:
    (found,) = connection.execute(query.encode()).fetchone() or (None,)
    return found


def test_tables_are_made_once_with_the_language_that_was_chosen(settings: IndexSettings) -> None:
    with closing(connected(settings, made=False)) as connection:
        with pytest.raises(Misconfigured, match="tagstream index init"):
            require_tables(connection, settings.index_schema)
        with pytest.raises(Misconfigured, match=r"no text search configuration 'klingon': .*english"):
            init(connection, settings.index_schema, "klingon")
        assert init(connection, settings.index_schema, "german") == NUMBERS
        assert init(connection, settings.index_schema, None) == []
        assert init(connection, settings.index_schema, "german") == []
        with pytest.raises(Misconfigured, match="--language german"):
            init(connection, settings.index_schema, "english")
        require_tables(connection, settings.index_schema)
    with closing(with_tables(settings)) as connection:
        written(connection, enriched("a.jpg", caption="zwei Häuser"))
        assert one(connection, "select words @@ to_tsquery('german', 'Haus') from image")


@pytest.mark.parametrize(("number", "advice"), [(0, "index init"), (999, "newer version")])
def test_tables_of_another_version_are_refused(settings: IndexSettings, number: int, advice: str) -> None:
    with closing(with_tables(settings)) as connection:
        connection.execute("delete from migration")
        connection.execute("insert into migration (number) values (%s)", (number,))
        with pytest.raises(Misconfigured, match=advice):
            require_tables(connection, settings.index_schema)


def test_a_migration_finds_the_parents_of_existing_rows(
    settings: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [
        {"name": "beagle", "score": 0.5, "label_id": 1, "parents": ["hound", "dog"]},
        {"name": "hostile", "score": 0.5, "label_id": 2, "parents": ["x" * 9_000]},
        {"name": "stone", "score": 0.5, "label_id": 3, "parents": None},
    ]
    with monkeypatch.context() as earlier:
        earlier.setattr(database, "migrations", lambda: migrations()[:2])
        tables = with_tables(settings)
    with closing(tables) as connection:
        row = "insert into image values (%s, 'photos', %s, 1, true, 1, %s)"
        connection.execute(row, ("photos/a.jpg", "a.jpg", False))
        connection.execute(row, ("photos/b.jpg", "b.jpg", True))
        connection.execute("update image set tags = %s where not gone", (Json(tags),))
        assert init(connection, settings.index_schema, None) == NUMBERS[2:]
        assert connection.execute("select subject, words @@ 'dog' from image order by 1").fetchall() == [
            ("photos/a.jpg", True),
            ("photos/b.jpg", None),
        ]
        assert connection.execute("select * from wider order by name").fetchall() == [
            ("beagle", ["hound", "dog"], True),
            ("dog", [], False),
            ("hound", ["dog"], False),
        ]


def test_two_who_make_tables_at_once_make_them_once(settings: IndexSettings) -> None:
    def make(_: int) -> list[int]:
        with closing(connected(settings, made=False)) as connection:
            return init(connection, settings.index_schema, None)

    with ThreadPoolExecutor(3) as makers:
        assert sorted(makers.map(make, range(3))) == [[], [], NUMBERS]


def test_words_of_tags_caption_name_and_translations_are_found(tables: Connection) -> None:
    tags = [{"name": "red car", "score": 0.5, "label_id": 1, "translations": {"zh": "红色汽车"}}]
    written(tables, enriched("holiday_2024/Beach-01.jpg", caption="two dogs \u0000", tags=()).but(tags=tags))
    for query in ("car", "dog", "beach", "holiday", "红色汽车"):
        found = tables.execute("select count(*) from image where words @@ plainto_tsquery('english', %s)", (query,))
        assert found.fetchone() == (1,), query
    assert one(tables, "select names @> '{red car}' and scores[1] = 0.5 from image")


@pytest.mark.parametrize("seed", range(6))
def test_outcomes_in_any_order_and_batches_leave_the_newest_of_each_subject(tables: Connection, seed: int) -> None:
    rng = random.Random(seed)
    told = story(rng, subjects=40, length=5)
    place = 0
    while place < len(told):
        size = rng.choice([1, 3, 40, 400])
        written(tables, *told[place : place + size])
        place += size
    assert held(tables) == expected(told)
    assert one(tables, "select count(*) from image where gone and coalesce(etag, words::text) is not null") == 0
    assert one(tables, "select count(*) from history join image using (subject) where gone") == 0
    assert one(tables, "select count(*) from history where cardinality(outcomes) > 5") == 0


def test_on_a_full_tie_the_retraction_counts_and_the_later_look_wins_within_a_version(tables: Connection) -> None:
    for pair in ((enriched("a"), retraction("a")), (retraction("b"), enriched("b"))):
        for each in pair:
            written(tables, each)
    written(tables, enriched("c", produced_at="2026-01-01T00:00:01Z", caption="later"), enriched("c"))
    assert {subject: row[2:4] for subject, row in held(tables).items()} == {
        "photos/a": (True, None),
        "photos/b": (True, None),
        "photos/c": (False, "later"),
    }


def test_an_outcome_without_a_version_loses_to_one_that_has_the_same(tables: Connection) -> None:
    stamp = 1_767_225_600_000_000
    written(tables, enriched("a", stamp, caption="versioned"))
    written(tables, enriched("a", None, produced_at="2027-01-01T00:00:00Z", caption="older rule"))
    assert held(tables)["photos/a"][3] == "versioned"
    written(tables, enriched("a", None, last_modified="2026-01-01T00:00:01Z", caption="newer object"))
    assert held(tables)["photos/a"][3] == "newer object"


def test_a_removed_image_leaves_its_key_and_version_alone(tables: Connection) -> None:
    written(tables, enriched("a", 1, vector=vector_of(1), scores=b"scores"), enriched("a", 2, vector=vector_of(2)))
    written(tables, retraction("a", 5))
    row = tables.execute("select to_jsonb(image) - 'changed_at' from image").fetchone()
    assert row is not None
    kept = {name: value for name, value in row[0].items() if value is not None}
    produced_at = 1_767_225_600_000_000
    assert kept == {
        "subject": "photos/a",
        "bucket": "photos",
        "key": "a",
        "version": 5,
        "published": True,
        "produced_at": produced_at,
        "gone": True,
    }
    assert one(tables, "select count(*) from history") == one(tables, "select count(*) from embedding_1") == 0
    written(tables, enriched("a", 4))
    assert held(tables)["photos/a"][2] is True


@pytest.mark.parametrize("first", ["outcome", "retraction"])
def test_a_version_is_retracted_alone_and_may_be_so_before_it_comes(tables: Connection, first: str) -> None:
    outcome, gone = enriched("a", 3, version_id="v3", vector=vector_of(1)), retraction("a", 5, version_id="v3")
    for each in (outcome, gone) if first == "outcome" else (gone, outcome):
        written(tables, each)
    assert held(tables)["photos/a"][2:] == (True, None, None)
    assert one(tables, "select count(*) from history") == 0
    written(tables, enriched("a", 9, version_id="v4", caption="alive"), retraction("a", 99, version_id="v2"))
    assert held(tables)["photos/a"][2:4] == (False, "alive")
    assert one(tables, "select count(*) from history") == 1


def test_a_versions_retraction_and_its_outcome_in_two_open_transactions_do_not_pass_each_other(
    tables: Connection, settings: IndexSettings
) -> None:
    outcome = [enriched("a", 3, version_id="v").row()]
    with closing(with_tables(settings)) as other:
        with tables.transaction():
            serialise_versions(tables, outcome)
            merge(tables, outcome, {})
            waiting = threading.Thread(target=lambda: written(other, retraction("a", 5, version_id="v")))
            waiting.start()
            time.sleep(0.3)
            assert waiting.is_alive()
        waiting.join(20)
        assert held(tables)["photos/a"][2] is True


def test_a_vector_is_rewritten_only_if_it_changed_and_goes_with_an_outcome_without_one(tables: Connection) -> None:
    written(tables, enriched("a", 1, vector=vector_of(1)), enriched("b", 1, vector=vector_of(2)))
    before = tables.execute("select subject, xmin::text from embedding_1 order by subject").fetchall()
    written(tables, enriched("a", 2, vector=vector_of(1), caption="retagged"), enriched("b", 2, vector=vector_of(3)))
    after = tables.execute("select subject, xmin::text from embedding_1 order by subject").fetchall()
    assert after[0] == before[0]
    assert after[1] != before[1]
    written(tables, enriched("a", 3), enriched("b", 3, vector=vector_of(3), space="another"))
    assert one(tables, "select count(*) from embedding_1") == 0
    assert one(tables, "select string_agg(subject, ',') from embedding_2") == "photos/b"


def test_the_spaces_of_records_are_bounded(tables: Connection) -> None:
    written(tables, *(enriched(f"{n}", vector=vector_of(1), space=f"space-{n}") for n in range(MOST_SPACES + 3)))
    assert one(tables, "select count(*) from space") == MOST_SPACES
    assert one(tables, "select count(*) from image") == MOST_SPACES + 3


def captions(tables: Connection) -> object:
    return one(tables, "select array_agg(o #>> '{caption,text}') from history, unnest(outcomes) o")


def test_the_last_five_outcomes_are_kept_with_the_newest_scores(tables: Connection) -> None:
    for first in (1, 4):
        written(tables, *(enriched("a", n, caption=str(n), scores=f"s{n}".encode()) for n in range(first, first + 3)))
    assert captions(tables) == ["6", "5", "4", "3", "2"]
    assert one(tables, "select scores from history") == b"s6"
    written(tables, retraction("a", 7), enriched("a", 8, caption="8"))
    assert captions(tables) == ["8"]
    assert one(tables, "select scores from history") is None
    written(tables, enriched("a", 9, caption="9", version_id="v"), enriched("a", 10, caption="10"))
    written(tables, retraction("a", 11, version_id="v"))
    assert captions(tables) == ["10", "8"]


P0, P1 = Partition("t", 0), Partition("t", 1)


def test_offsets_advance_only_from_the_expected_one_and_of_the_same_topic(tables: Connection) -> None:
    for place in (P0, P1):
        tables.execute("insert into progress (topic, partition, topic_id, next_offset) values (%s, %s, 'id', 5)", place)
    table = Spaces(tables).beside
    advance(tables, {P0: Move("id", 5, 9, 1_767_225_600_500), P1: Move("id", 5, 6, None)}, table)
    assert one(tables, "select record_at::text from progress where partition = 0") == "2026-01-01 00:00:00.5+00"
    for offset, at_ms in ((9, -1), (10, -(2**63)), (11, 10**15), (12, 2**63 - 1)):  # any producer sets it
        advance(tables, {P0: Move("id", offset, offset + 1, at_ms)}, table)
    assert one(tables, "select record_at::text from progress where partition = 0") == "2026-01-01 00:00:00.5+00"
    for wrong in (Move("id", 5, 7, None), Move("other", 13, 14, None)):
        with pytest.raises(Moved) as moved, tables.transaction():
            advance(tables, {P0: wrong, P1: Move("id", 6, 8, None)}, table)
        assert moved.value.partitions == {P0}
    with pytest.raises(Moved):
        advance(tables, {P1: Move("id", 6, 8, None)}, table + 1)
    found = tables.execute("select next_offset from progress order by partition").fetchall()
    assert found == [(13,), (6,)]


def test_a_database_that_hangs_is_given_up_in_time(settings: IndexSettings) -> None:
    with closing(connected(settings, made=False)) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(Unavailable), limited(connection, 0.5):
                connection.execute("select 1")
        finally:
            os.kill(backend, signal.SIGCONT)
        assert time.monotonic() - started < 20


def at(settings: IndexSettings, dsn: str) -> IndexSettings:
    return settings.model_copy(update={"index_dsn": SecretUrl(dsn)})


def test_errors_of_the_database_are_sentences_with_a_remedy(settings: IndexSettings) -> None:
    for dsn, says in (
        ("postgresql://u:secret@127.0.0.1:1/x", r"postgresql: .*refused"),
        (f"{settings.index_dsn.get_secret_value()}_absent", "does not exist"),
    ):
        with pytest.raises(Unavailable, match=says) as away:
            connected(at(settings, dsn), made=False)
        assert "TAGSTREAM_INDEX_DSN" in away.value.advice
        assert "secret" not in str(away.value)
    with pytest.raises(Misconfigured, match="TAGSTREAM_INDEX_DSN") as unread:
        connected(at(settings, "postgresql://a:secret@b/c?no_such=1"), made=False)
    assert "secret" not in str(unread.value)


def test_a_user_without_rights_gets_a_sentence(settings: IndexSettings) -> None:
    name = settings.index_schema
    with closing(connected(settings, made=False)) as connection:
        connection.execute(f"create role {name} nosuperuser".encode())
        connection.execute(f"set role {name}".encode())
        with pytest.raises(Misconfigured, match="does not allow"), limited(connection):
            init(connection, name, None)
