"""The alerts about Kafka fire for their faults; see `test_alerts` for the rules' times."""

import time
from collections.abc import Iterator
from itertools import islice

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tagstream_testing.local.scratch import Scratch
from tests.dashboards.watching import RULES, assert_fires, assert_over, place, send, traffic
from tests.fixtures import Stack, up_or_skip
from tests.support.broker import BrokerBehindProxy
from tests.support.prometheus import Prometheus, shortened
from tests.support.waiting import meanwhile
from tests.support.worker_process import Site, WorkerProcess

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(900)]

BY = 30


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[BrokerBehindProxy]:
    yield from up_or_skip(BrokerBehindProxy(scratch.path / "alerts-kafka"))


@pytest.fixture(scope="module")
def watched(scratch: Scratch) -> Iterator[Prometheus]:
    rules = shortened(RULES, BY, scratch.path / "shortened-kafka.yaml")
    yield from up_or_skip(Prometheus(scratch.path / "watching-kafka", rules, every_s=2))


@pytest.fixture(scope="module")
def site(stack: Stack, broker: BrokerBehindProxy) -> Site:
    return Site(Stack(broker, stack.s3, stack.valkey), "alerts")


@pytest.fixture(scope="module")
def process(site: Site, broker: BrokerBehindProxy, scratch: Scratch, watched: Prometheus) -> Iterator[WorkerProcess]:
    """Not ready when the first test begins."""
    process = WorkerProcess(site, "kafka", scratch.path, TAGSTREAM_KAFKA_SERVERS=broker.proxied)
    watched.scrape(kafka=[place(process)])
    yield process
    process.kill()


def test_offsets_in_an_abandoned_transaction(site: Site, watched: Prometheus, request: pytest.FixtureRequest) -> None:
    """Its group's partitions can't be opened until the broker aborts it."""
    producer = Producer(
        {
            "bootstrap.servers": site.stack.kafka.servers,
            "transactional.id": "abandoned",
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    group = Consumer({"bootstrap.servers": site.stack.kafka.servers, "group.id": site.name})
    offsets = [TopicPartition(site.images, number, 0) for number in range(site.partitions)]
    producer.send_offsets_to_transaction(offsets, group.consumer_group_metadata(), 30)
    process = request.getfixturevalue("process")
    assert_fires(watched, "TagstreamPartitionNotOpened")
    producer.abort_transaction(30)
    group.close()
    assert_over(watched, "TagstreamPartitionNotOpened")
    process.wait_ready()


def test_another_process_that_takes_the_transactional_id_now_and_then(
    site: Site, process: WorkerProcess, watched: Prometheus
) -> None:
    """Not twice in 10 s, or the worker takes it for another worker and ends. Never while it publishes: the client would
    take the id anew until no transaction was open, and fence the worker twice."""
    process.wait_ready()
    settings = {"bootstrap.servers": site.stack.kafka.servers, "transactional.id": f"{site.name}-kafka"}
    numbers = iter(range(1_000))

    def take_and_send() -> None:
        Producer(settings).init_transactions(30)
        for number in islice(numbers, 3):
            send(site, [number])
            time.sleep(4)

    with meanwhile(take_and_send, 4):
        assert_fires(watched, "TagstreamTransactionsFail")
    with traffic(site, range(1_000, 2_000)):
        assert_over(watched, "TagstreamTransactionsFail")


def test_a_broker_that_refuses_connections(
    broker: BrokerBehindProxy, process: WorkerProcess, watched: Prometheus
) -> None:
    process.wait_ready()
    broker.proxy.vanish()
    broker.proxy.cut()
    assert_fires(watched, "TagstreamBrokerUnreachable")
    broker.proxy.appear()
    assert_over(watched, "TagstreamBrokerUnreachable")
