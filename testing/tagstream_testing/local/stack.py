"""All servers that the worker needs, during a `with` block.

They live in one temporary folder.
"""

from __future__ import annotations

import secrets
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import TypeVar

from tagstream_testing.local.apache_kafka import QUICK_START, ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.server import Server
from tagstream_testing.local.valkey import Valkey
from workers.backends.kafka import ensure_topics
from workers.backends.s3.store import MinioObjectStore

BUCKET = "photos"
TOPICS = ("images", "images.enriched", "images.dead-letters", "images.skipped")
"""Input, output, dead letters and skips: everything is published, so that nothing can vanish."""
CORRECTIONS = "images.corrections"
_PARTITIONS = 3
_SETTINGS = {
    CORRECTIONS: {"retention.ms": "-1"},
    "images.enriched": {"cleanup.policy": "compact"},
    "images.dead-letters": {"retention.ms": "-1", "compression.type": "zstd"},
}
"""As `tagstream topics check` advises."""

ServerT = TypeVar("ServerT", bound=Server)


class LocalStack:
    """Apache Kafka (`kafka`), S3 (`s3`), Valkey (`valkey`) and PostgreSQL (`postgresql`).

    Several stacks can run side by side on this machine.

    Each is a `Server` of its own that can be stopped, killed, frozen and brought back. When the block ends, or this
    process does in whatever way, no server is left; when the block ends, no folder either.

    Args:
        broker_jvm: options of the broker's Java machine, as in `ApacheKafka`.

    Raises:
        CannotStart: on entering, with the log's last lines.
    """

    def __init__(self, *, broker_jvm: Sequence[str] = QUICK_START) -> None:
        self.scratch = Scratch()
        self.page_token = secrets.token_hex(8)
        self.kafka = ApacheKafka(self.scratch.path / "kafka", jvm=broker_jvm)
        self.s3 = SeaweedFS(self.scratch.path / "s3", self.scratch.will_litter)
        self.valkey = Valkey(self.scratch.path / "valkey")
        self.postgresql = PostgreSQL(self.scratch.path / "postgresql")
        self._guests: list[Server] = []

    @property
    def servers(self) -> tuple[Server, ...]:
        # PostgreSQL last: it makes its data folder while the others start.
        return self.valkey, self.s3, self.kafka, self.postgresql

    def add(self, guest: ServerT) -> ServerT:
        """Have another server, one that works on these, ended with this stack."""
        self._guests.append(guest)
        return guest

    def start(self) -> None:
        """Bring all up side by side: about 4 s."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait()

    def furnish(self) -> None:
        """Make the missing bucket and topics of `environment`."""
        topics = {topic: (_PARTITIONS, _SETTINGS.get(topic, {})) for topic in (*TOPICS, CORRECTIONS)}
        # As long as a server may take to start: on a busy machine one that is up answers its first client late.
        ensure_topics(self.kafka.servers, topics, timeout_s=ApacheKafka.ready_within_s)
        with closing(self.object_store()) as store:
            store.make_bucket(BUCKET)

    def object_store(self) -> MinioObjectStore:
        """A client of `s3`; the caller closes it."""
        return MinioObjectStore(self.s3.endpoint_url, self.s3.access_key, self.s3.secret_key, self.s3.region)

    def environment(self) -> dict[str, str]:
        """The environment of a `tagstream run` on these servers."""
        names = ("INPUT_TOPICS", "OUTPUT_TOPIC", "DEAD_LETTER_TOPIC", "SKIPPED_TOPIC")
        return {
            **{f"TAGSTREAM_{name}": topic for name, topic in zip(names, TOPICS, strict=True)},
            "TAGSTREAM_CORRECTIONS_TOPIC": CORRECTIONS,
            "TAGSTREAM_BUCKETS": BUCKET,
            "TAGSTREAM_KAFKA_SERVERS": self.kafka.servers,
            "TAGSTREAM_S3_ENDPOINT": self.s3.endpoint_url,
            "TAGSTREAM_S3_REGION": self.s3.region,
            "TAGSTREAM_S3_ACCESS_KEY": self.s3.access_key,
            "TAGSTREAM_S3_SECRET_KEY": self.s3.secret_key,
            "TAGSTREAM_REDIS_URL": self.valkey.url,
            "TAGSTREAM_INDEX_DSN": self.postgresql.dsn,
            "TAGSTREAM_INDEX_STORE_URL": self.s3.endpoint_url,
            "TAGSTREAM_INDEX_PAGE_TOKEN": self.page_token,
        }

    def exports(self) -> list[str]:
        """`environment` as lines for a shell."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.environment().items()]

    def close(self) -> None:
        """Kill all, since nothing of them is kept, and remove the folder. A second Ctrl-C does not cut it short."""
        with _undisturbed():
            for server in (*self._guests, *self.servers):
                server.retire()
            self.scratch.close()

    def __enter__(self) -> LocalStack:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
