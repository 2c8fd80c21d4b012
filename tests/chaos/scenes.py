"""Common parts of the tests that break brokers and workers: work to do, and checks around a strike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs export none of them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from tests.chaos.account import Account
from tests.chaos.markers import KAFKA_ISSUE
from tests.chaos.shared_worker import in_flight, is_committed
from tests.support.broker import BrokerBehindProxy
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

SESSION_S = 4

BUSY = {
    "TAGSTREAM_REDIS_URL": "",
    "transaction_outcomes": "8",
    "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
    "jobs_ahead": "30",
}
"""No cache, small transactions, a session that lapses soon, and a short reach, so that work lasts for a while."""


def behind_proxy(broker: BrokerBehindProxy, **more: str) -> dict[str, str]:
    return {"TAGSTREAM_KAFKA_SERVERS": broker.proxied, "TAGSTREAM_REDIS_URL": "", "transaction_outcomes": "4", **more}


def load(site: Site, records: int, images: int = 12, side: int = 96) -> None:
    """Records for a while of work: few images, no cache, so that each is computed again or joins one in flight."""
    for number in range(images):
        site.upload(f"{number}.jpg", photo(number, side))
    site.send([(site.own(f"{number % images}.jpg"), ()) for number in range(records)])


def limit_messages(site: Site, topic: str, size: int) -> None:
    admin = AdminClient({"bootstrap.servers": site.stack.kafka.servers})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(10)


def published(process: WorkerProcess, **labels: str) -> float:
    return process.metric("tagstream_transactions_published_total", **labels)


def failed(process: WorkerProcess, **labels: str) -> float:
    return process.metric("tagstream_transactions_failed_total", **labels)


def reads(process: WorkerProcess) -> bool:
    return process.metric("tagstream_partitions", state="reading") > 0


def publishes(process: WorkerProcess) -> None:
    """Wait for outcomes, so that the next strike hits a transaction."""
    eventually(lambda: published(process) > 2, 60, process.said)


def busy(process: WorkerProcess) -> None:
    """Until its metrics say that images are in flight and outcomes come out."""
    eventually(lambda: in_flight(process) > 0 and published(process) > 0, 60, process.said)


@contextmanager
def settled(site: Site, replica: str, folder: Path, **settings: str) -> Iterator[WorkerProcess]:
    with worker(site, replica, folder, **settings) as process:
        load(site, 12)
        eventually(lambda: is_committed(site), 60, process.said)
        yield process


def _unless_a_marker_is_lost(process: WorkerProcess, condition: Callable[[], bool], timeout_s: float) -> None:
    def lost() -> bool:
        return "transaction marker lost" in process.said()

    eventually(lambda: condition() or lost(), timeout_s, process.said)
    if lost():
        pytest.xfail(f"the broker lost a transaction marker ({KAFKA_ISSUE}); the worker said so and went on without it")


def come_through(site: Site, process: WorkerProcess, account: Account, within_s: float = 90) -> None:
    """Work moves again within 30 s, everything is committed, and the worker exits cleanly."""
    committed = published(process)
    _unless_a_marker_is_lost(process, lambda: published(process) > committed or is_committed(site), 40)
    account.recovered()
    _unless_a_marker_is_lost(process, lambda: is_committed(site), within_s)
    assert process.terminate() == 0, process.said()


def assert_finishes(site: Site, process: WorkerProcess, account: Account) -> None:
    come_through(site, process, account)
    account.assert_site(site)


def inherit(site: Site, account: Account, folder: Path, settings: Mapping[str, str], within_s: float = 90) -> None:
    """A worker under the same name continues where the last one died, and finishes."""
    with worker(site, "w", folder, **settings) as heir:
        account.over()
        come_through(site, heir, account, within_s)


def assert_inherited(
    site: Site, account: Account, folder: Path, settings: Mapping[str, str], letters: int = 0, within_s: float = 90
) -> None:
    inherit(site, account, folder, settings, within_s)
    account.assert_site(site, letters)
