"""A topic, tables and indexers on a real Kafka and a real PostgreSQL."""

import random
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from index.tests.support import Said, expected, held, settings_of, with_tables
from tagstream_index.database import Connection, connected
from tagstream_index.indexer import Indexer
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.support.forked import MayFork, run_command
from tests.support.ran import Ran
from tests.support.waiting import eventually
from workers.backends.kafka import KafkaEmitter, KafkaRecordSource, ensure_topics


class IndexRun(MayFork):
    """`tagstream index run`; up when it is ready."""

    name: ClassVar[str] = "index"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "workers", "index", "run", *self._arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "TAGSTREAM_INDEX_HTTP_PORT": str(self.ports[0])}


class World:
    def __init__(
        self,
        kafka: ApacheKafka,
        server: PostgreSQL,
        name: str,
        folder: Path,
        topic: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kafka, self.server, self.topic, self.folder = kafka, server, name, folder
        self.settings = settings_of(
            server, name.replace("-", "_"), kafka_servers=(kafka.servers,), output_topic=name, index_group=name
        )
        self.tables = with_tables(self.settings)
        self.cleanup = ExitStack()
        self.make_topic(topic)

    def make_topic(self, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        ensure_topics(self.kafka.servers, {self.topic: (3, settings)})

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TAGSTREAM_KAFKA_SERVERS": self.kafka.servers,
            "TAGSTREAM_OUTPUT_TOPIC": self.topic,
            "TAGSTREAM_INDEX_DSN": self.server.dsn,
            "TAGSTREAM_INDEX_SCHEMA": self.settings.index_schema,
            "TAGSTREAM_INDEX_GROUP": self.topic,
            "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "6",
        }

    def indexer(self, name: str = "index", *arguments: str, **settings: str) -> IndexRun:
        made = IndexRun(self.folder / name, self.environment | settings, arguments)
        self.cleanup.callback(made.kill)
        return made

    def publish(
        self, told: Iterable[Said | tuple[bytes | None, bytes | None]], rng: random.Random | None = None
    ) -> None:
        with KafkaEmitter(self.kafka.servers) as emitter:
            for each in told:
                key, value, headers = (*each, ()) if isinstance(each, tuple) else (each.key, each.value, each.headers)
                emitter.send(self.topic, key if rng is None else rng.randbytes(4), value, headers)
            emitter.flush()

    def ask(self, query: str) -> Any:
        (found,) = self.tables.execute(query.encode()).fetchone() or (None,)
        return found

    def reconnect(self) -> Connection:
        self.tables.close()
        self.tables = connected(self.settings)
        return self.tables

    def command(self, *arguments: str) -> Ran:
        return self.tagstream("index", *arguments)

    def tagstream(self, *arguments: str, **settings: str) -> Ran:
        return run_command(*arguments, **{**self.environment, "TAGSTREAM_INDEX_HTTP_PORT": "off", **settings})

    def close(self) -> None:
        self.cleanup.close()
        self.tables.close()


def rows_are(world: World, told: Iterable[Said]) -> Callable[[], bool]:
    wanted = expected(told)
    return lambda: held(world.tables) == wanted


def in_process(world: World) -> Indexer:
    source = KafkaRecordSource(world.kafka.servers, world.topic, [world.topic])
    world.cleanup.callback(source.close)
    indexer = Indexer(world.settings, source)
    world.cleanup.callback(indexer.close)
    return indexer


def turned(indexer: Indexer, until: Callable[[], bool]) -> None:
    def holds() -> bool:
        indexer.turn()
        return until()

    eventually(holds)
