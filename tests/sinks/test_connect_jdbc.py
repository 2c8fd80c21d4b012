"""`examples/index/connect-jdbc`, on a real Kafka Connect, has the content of an index, in any order of outcomes."""

import random
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from index.tests.support import BUCKET, Said, enriched, expected, retraction, story
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import up_or_skip
from tests.sinks.connect import KafkaConnect
from tests.support.waiting import eventually
from workers.backends.kafka import ensure_topics

pytestmark = [pytest.mark.sinks, pytest.mark.timeout(400)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "index" / "connect-jdbc"
PARTITIONS = 2
DELETING = {"transforms": "key,value"}
"""The README's options for a sink that deletes rows by tombstones."""

Record = Said | tuple[bytes, bytes | None]


def properties() -> dict[str, str]:
    lines = (EXAMPLE / "sink.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Sinks:
    databases = ("keeping", "deleting")

    def __init__(self, kafka: ApacheKafka, server: PostgreSQL, folder: Path) -> None:
        self.kafka, self.topic, self.folder, self.sent = kafka, "images.enriched", folder, 0
        ensure_topics(kafka.servers, {self.topic: (PARTITIONS, {})})
        self.producer = Producer({"bootstrap.servers": kafka.servers, "transactional.id": "sinks"})
        self.producer.init_transactions(60)
        self.tables: dict[str, psycopg.Connection[Any]] = {}
        for name in self.databases:
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute(f"create database {name}".encode())
            self.tables[name] = psycopg.connect(server.dsn, dbname=name, autocommit=True)
            self.tables[name].execute((EXAMPLE / "tables.sql").read_bytes())
        self.address = server.dsn.rpartition("@")[2].partition("/")[0]
        self.server = self.connect()

    def close(self) -> None:
        self.server.kill()
        for connection in self.tables.values():
            connection.close()

    def connect(self, suffix: str = "") -> KafkaConnect:
        """A new suffix is a new consumer group, which reads all of the topic."""
        return KafkaConnect(
            self.folder / f"connect{suffix}",
            self.kafka,
            [
                {
                    **properties(),
                    "name": name + suffix,
                    "connection.url": f"jdbc:postgresql://{self.address}/{name}",
                    "connection.username": "postgres",
                    "consumer.override.metadata.max.age.ms": "1000",
                    **(DELETING if name == "deleting" else {}),
                }
                for name in self.databases
            ],
        )

    def send(self, *records: Record, commit: bool = True, rng: random.Random | None = None) -> None:
        """In one transaction, by their keys or into any partition."""
        self.producer.begin_transaction()
        for each in records:
            key, value = each if isinstance(each, tuple) else (each.key, each.value)
            place = rng.randrange(PARTITIONS) if rng else sum(key) % PARTITIONS
            self.producer.produce(self.topic, value, key, partition=place)
        self.producer.flush(60)
        (self.producer.commit_transaction if commit else self.producer.abort_transaction)(60)

    def settle(self) -> None:
        """Return once all sent records are in both databases."""
        self.sent += 1
        marks = [f"mark-{self.sent}-{place}" for place in range(PARTITIONS)]
        self.producer.begin_transaction()
        for place, mark in enumerate(marks):
            said = enriched(mark)
            self.producer.produce(self.topic, said.value, said.key, partition=place)
        self.producer.commit_transaction(60)
        for name in self.databases:
            arrived = partial(self._shows_all, name, marks)
            eventually(arrived, 60, lambda: self.server.log_tail(60))

    def _shows_all(self, database: str, keys: list[str]) -> bool:
        return self.images(database).keys() >= set(keys)

    def images(self, database: str) -> dict[str, str]:
        """Captions by key, without the bucket."""
        found = self.tables[database].execute("select subject, coalesce(doc #>> '{caption,text}', '') from image")
        return {subject.removeprefix(f"{BUCKET}/"): caption for subject, caption in found}

    def shows(self, key: str) -> list[str | None]:
        """The caption of an image in each database."""
        return [self.images(name).get(key) for name in self.databases]

    def rows(self, database: str, columns: str) -> list[tuple[Any, ...]]:
        return self.tables[database].execute(f"select {columns} from outcome order by document_id".encode()).fetchall()


@pytest.fixture(scope="module")
def sinks(kafka: ApacheKafka, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sinks]:
    with closing(Sinks(kafka, postgresql, tmp_path_factory.mktemp("sinks"))) as made:
        for _ in up_or_skip(made.server):
            yield made


def image(key: str, version: int, **others: Any) -> Said:
    return enriched(key, version, caption=f"version {version}", **others)


def test_a_stale_outcome_loses(sinks: Sinks) -> None:
    sinks.send(image("é stale.jpg", 20), image("é stale.jpg", 10))
    sinks.settle()
    assert sinks.shows("é stale.jpg") == ["version 20"] * 2


def test_of_one_version_the_later_outcome_wins_and_of_one_time_the_retraction(sinks: Sinks) -> None:
    for first in (True, False):
        early = enriched(f"again {first}.jpg", 5, caption="before", produced_at="2026-01-01T00:00:01.000Z")
        late = enriched(f"again {first}.jpg", 5, caption="anew", produced_at="2026-01-01T00:00:02.000Z")
        shown, gone = image(f"tie {first}.jpg", 5), retraction(f"tie {first}.jpg", 5)
        sinks.send(*((early, late, shown, gone) if first else (late, early, gone, shown)))
    sinks.settle()
    for first in (True, False):
        assert sinks.shows(f"again {first}.jpg") == ["anew"] * 2
        assert sinks.shows(f"tie {first}.jpg") == [None] * 2


def test_a_removed_image_is_gone_with_its_content_until_a_newer_outcome(sinks: Sinks) -> None:
    sinks.send(image("gone.jpg", 10), retraction("gone.jpg", 20), image("gone.jpg", 15))
    sinks.settle()
    assert sinks.shows("gone.jpg") == [None] * 2
    docs = [doc for name in sinks.databases for (doc,) in sinks.rows(name, "doc") if "gone.jpg" in doc]
    assert len(docs) == 2
    assert not any("caption" in doc for doc in docs)
    sinks.send(image("gone.jpg", 21))
    sinks.settle()
    assert sinks.shows("gone.jpg") == ["version 21"] * 2


def test_an_aborted_transaction_is_not_seen(sinks: Sinks) -> None:
    sinks.send(image("aborted.jpg", 1), commit=False)
    sinks.settle()
    assert sinks.shows("aborted.jpg") == [None] * 2


def test_a_version_that_was_removed_takes_only_its_own_image_away_also_ahead_of_it(sinks: Sinks) -> None:
    sinks.send(
        *(image("shown.jpg", 10, version_id="v1"), retraction("shown.jpg", 20, version_id="v1")),
        *(image("other.jpg", 10, version_id="v2"), retraction("other.jpg", 20, version_id="v1")),
        *(retraction("ahead.jpg", 20, version_id="v1"), image("ahead.jpg", 10, version_id="v1")),
    )
    sinks.settle()
    assert [sinks.shows(f"{name}.jpg") for name in ("shown", "other", "ahead")] == [
        [None] * 2,
        ["version 10"] * 2,
        [None] * 2,
    ]
    sinks.send(image("shown.jpg", 30, version_id="v3"))
    sinks.settle()
    assert sinks.shows("shown.jpg") == ["version 30"] * 2


def test_a_tombstone_deletes_the_row_where_that_is_on_and_then_a_late_outcome_comes_back(sinks: Sinks) -> None:
    gone = retraction("tomb.jpg", 20)
    sinks.send(image("tomb.jpg", 10), gone, (gone.key, None))
    sinks.settle()
    rows = {name: [place for (place,) in sinks.rows(name, "document_id")] for name in sinks.databases}
    assert [gone.subject in rows[name] for name in sinks.databases] == [True, False]
    sinks.send(image("tomb.jpg", 15))
    sinks.settle()
    assert sinks.shows("tomb.jpg") == [None, "version 15"]


def test_outcomes_in_any_order_and_partition_lead_to_the_models_result(sinks: Sinks) -> None:
    rng = random.Random(1)
    told = story(rng, 100, 6)
    sinks.send(*told, rng=rng)
    sinks.settle()
    wanted = {key.removeprefix(f"{BUCKET}/"): row[3] for key, row in expected(told).items() if not row[2]}
    assert len(wanted) > 30
    for name in sinks.databases:
        assert {key: text for key, text in sinks.images(name).items() if key.startswith("folder/")} == wanted


def test_a_second_delivery_changes_nothing(sinks: Sinks) -> None:
    """A new consumer group reads all of the topic once more. `xmin` changes with each write."""
    sinks.send(*story(random.Random(2), 20, 6))
    sinks.settle()
    sinks.server.stop()
    before = [sinks.rows("keeping", "document_id, xmin, doc"), sinks.rows("deleting", "document_id, doc")]
    sinks.server = sinks.connect("-again").start()
    sinks.settle()
    after = [sinks.rows("keeping", "document_id, xmin, doc"), sinks.rows("deleting", "document_id, doc")]
    assert [[row for row in rows if "/mark-" not in row[0]] for rows in after] == [
        [row for row in rows if "/mark-" not in row[0]] for rows in before
    ]


def test_a_value_that_is_not_json_stops_the_task(sinks: Sinks) -> None:
    """In the last place: nothing behind it is read."""
    sinks.send((b"photos/poison.jpg", b"{"))
    eventually(lambda: len(sinks.server.failed()) == len(sinks.databases), 60)
