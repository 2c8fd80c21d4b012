"""A broker of our own behind a proxy for workers, and its words on transactions."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TransactionalIdNotFoundError

from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.support.kafka_proxy import KafkaProxy
from tests.support.waiting import eventually
from workers.backends.kafka import KafkaEmitter
from workers.backends.kafka.client import Security, connect, end_consumer, mapped
from workers.backends.kafka.topics import partitions_of
from workers.types import Message, Partition


class BrokerBehindProxy(ApacheKafka):
    """A client that bootstraps at the proxy is sent through it again; `servers` leads straight to the broker.

    The broker's own requests (transaction markers) and the tests take the straight way, so that a fault hits workers
    alone. The proxy's port is closed while the broker is down: a refused connection is another fault than a cut one.
    Its session timeout is above every freeze here: a fenced single node can lose a transaction marker.
    """

    port_count: ClassVar[int] = 3

    def __init__(self, folder: Path) -> None:
        # A restart after a SIGKILL waits until the old session has lapsed.
        super().__init__(folder)
        self.proxy = KafkaProxy(lambda: self.ports[2])

    def wait(self) -> None:
        super().wait()
        self.proxy.appear()

    def stop(self) -> None:
        self.proxy.vanish()
        super().stop()

    def kill(self) -> None:
        self.proxy.vanish()
        super().kill()

    @property
    def proxied(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    def _properties(self) -> dict[str, str]:
        own = super()._properties()
        return own | {
            "listeners": f"{own['listeners']},DETOUR://127.0.0.1:{self.ports[2]}",
            "advertised.listeners": f"{own['advertised.listeners']},DETOUR://{self.proxied}",
            "listener.security.protocol.map": f"{own['listener.security.protocol.map']},DETOUR:PLAINTEXT",
            # Freezes here last up to 9 s.
            "broker.session.timeout.ms": "15000",
            "controller.quorum.fetch.timeout.ms": "15000",
        }


def publish(servers: str, messages: Iterable[Message]) -> None:
    with KafkaEmitter(servers) as emitter:
        emitter.emit(messages)


def transaction_state(servers: str, transactional_id: str) -> str:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        return str(admin.describe_transactions([transactional_id])[transactional_id].state.value)
    except TransactionalIdNotFoundError:
        return ""
    finally:
        admin.close()


_DECIDED = ("PrepareCommit", "PrepareAbort")
_MARKERS_S = 60.0


def await_markers(servers: str) -> None:
    """Wait until decided transactions are visible as committed or aborted; open ones are not waited for."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    waiting: set[str] | None = None

    def complete() -> bool:
        nonlocal waiting
        try:
            listed = admin.list_transactions(state_filters=_DECIDED)
        except KafkaError:  # a coordinator that starts
            return False
        decided = {each.transactional_id for some in listed.values() for each in some}
        waiting = decided if waiting is None else waiting & decided
        return not waiting

    try:
        eventually(complete, _MARKERS_S, lambda: f"decided, and without markers: {waiting}")
    finally:
        admin.close()


def catch_open_transaction(servers: str, transactional_id: str, strike: Callable[[], None], timeout_s: float) -> None:
    """Strike while a transaction is open, by the broker's word of a moment ago."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    deadline = time.monotonic() + timeout_s
    try:
        while admin.describe_transactions([transactional_id])[transactional_id].state.value != "Ongoing":
            assert time.monotonic() < deadline, "no transaction was ever seen open"
    finally:
        strike()
        admin.close()


_TIMEOUT_MS = 10_000


def lag(
    servers: str, group: str, topics: Sequence[str], *, security: Security | None = None
) -> dict[Partition, int | None]:
    """How many offsets each partition has beyond the group's committed one (None without one), markers included."""
    consumer = connect(
        KafkaConsumer,
        servers,
        security or {},
        timeout_s=10.0,
        group_id=group,
        isolation_level="read_committed",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    try:
        with mapped(f"asking for the lag of {group!r}"):
            partitions = partitions_of(consumer, topics)
            ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
            offsets = {partition: consumer.committed(partition, timeout_ms=5_000) for partition in partitions}
    finally:
        end_consumer(consumer)
    return {
        Partition(*partition): None if (offset := offsets[partition]) is None else max(0, ends[partition] - offset)
        for partition in partitions
    }
