"""The compose file's Kafka, topics, Valkey and worker, run here with Apache Kafka's own programs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from redis import Redis

from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.fixtures import up_or_skip
from tests.integration.deploy.composed import ComposedKafka, ComposedWorker, composed_servers, send_a_photo
from tests.support.measured import read_text
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[ComposedKafka]:
    yield from up_or_skip(ComposedKafka(scratch.path / "compose-kafka"))


def test_clients_outside_are_sent_back_to_the_address_outside(broker: ComposedKafka) -> None:
    outside = broker.ports[2]
    brokers = AdminClient({"bootstrap.servers": f"127.0.0.1:{outside}"}).list_topics(timeout=20).brokers
    assert [f"{each.host}:{each.port}" for each in brokers.values()] == [f"127.0.0.1:{outside}"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_worker_tags_an_image_on_these_servers(broker: ComposedKafka, s3: SeaweedFS, tmp_path: Path) -> None:
    with composed_servers(broker, s3, tmp_path) as addresses, ComposedWorker(tmp_path / "worker", addresses) as worker:
        send_a_photo(addresses, s3, "cat.jpg")

        def enriched() -> float:
            samples = [sample for family in read_text(worker.page()) for sample in family.samples]
            outcomes = [sample for sample in samples if sample.name == "tagstream_outcomes_total"]
            return sum(sample.value for sample in outcomes if sample.labels["kind"] == "enriched")

        eventually(enriched, 90, worker.log_tail)
        with Redis.from_url(f"redis://{addresses['valkey:6379']}/0") as valkey:
            assert valkey.info("stats")["total_connections_received"] > 1, "the worker never came"
            assert valkey.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
