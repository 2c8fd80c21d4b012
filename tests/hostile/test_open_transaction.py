"""A producer leaves a transaction open on the input: its partition waits, which is told, and the others go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack
from tests.support.raw_kafka import batch, produce, record
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker
from workers.backends.kafka import KafkaRecordSource
from workers.types import Partition

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@contextmanager
def open_transaction(site: Site, partition: int) -> Iterator[None]:
    """One record of it stands in the partition, and is aborted after the block."""
    producer = Producer(
        {
            "bootstrap.servers": site.stack.kafka.servers,
            "transactional.id": f"{site.name}-attacker",
            "transaction.timeout.ms": 240_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(site.images, site.own("open.jpg"), partition=partition)
    producer.flush(30)
    try:
        yield
    finally:
        producer.abort_transaction(30)


def send(site: Site, partition: int, key: str) -> None:
    site.upload(key, photo(len(key), 48))
    error, _ = produce(site.stack.kafka.servers, site.images, partition, batch([record(site.own(key))]))
    assert error == 0


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    return Site(stack, unique("open"), partitions=2)


def answered(site: Site) -> list[str]:
    images = [output for output in site.outputs() if isinstance(output, EnrichedImage)]
    return sorted(image.source.key for image in images)


def test_an_open_transaction_is_told_while_other_partitions_are_answered(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path) as process, open_transaction(site, 0):
        for number in range(5):
            send(site, 0, f"behind-{number}.jpg")
        send(site, 1, "beside.jpg")
        eventually(lambda: answered(site) == ["beside.jpg"], 60, process.said)

        def told() -> list[str]:
            status, body = process.get("/readyz")
            assert status == 200
            return [str(line) for line in json.loads(body)["reasons"]]

        eventually(lambda: [line.split()[0] for line in told()] == [f"{site.images}:0"], 90, process.said)
        eventually(lambda: f"{site.images}:0 is held up" in process.said(), 30)
        of_it = {"topic": site.images, "partition": "0"}
        assert process.metric("tagstream_held_up_seconds", **of_it) >= 30
        assert process.metric("tagstream_held_up_seconds", topic=site.images, partition="1") == 0
        assert process.metric("tagstream_lag_records", **of_it) == 6
        assert process.metric("tagstream_lag_records", topic=site.images, partition="1") == 0
        send(site, 1, "later.jpg")
        eventually(lambda: answered(site) == ["beside.jpg", "later.jpg"], 60, process.said)


def test_it_ends_and_leaves_no_lag_behind(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path) as process:
        with open_transaction(site, 0):
            send(site, 0, "behind.jpg")
        eventually(lambda: answered(site) == ["behind.jpg"], 60, process.said)
        eventually(lambda: process.metric("tagstream_lag_records", topic=site.images) == 0, 30)
        assert process.metric("tagstream_held_up_seconds", topic=site.images) == 0


def test_without_transactional_producers_none_holds_a_partition_up(site: Site, tmp_path: Path) -> None:
    """What the transaction would take back is answered like any record, and the audit knows that it was."""
    site.upload("open.jpg", photo(1, 48))
    isolation = {"TAGSTREAM_INPUT_ISOLATION": "read_uncommitted"}
    with worker(site, "w", tmp_path, **isolation) as process, open_transaction(site, 0):
        send(site, 0, "behind.jpg")
        eventually(lambda: answered(site) == ["behind.jpg", "open.jpg"], 60, process.said)
        assert process.metric("tagstream_held_up_seconds", topic=site.images) == 0
    report = site.audit(**isolation)
    assert (report.proved, report.records) == (True, 2)


def test_the_source_tells_it_on_a_real_broker_without_any_wait(site: Site) -> None:
    place = Partition(site.images, 0)
    with closing(KafkaRecordSource(site.stack.kafka.servers, site.name, [site.images])) as source:
        until = time.monotonic() + 90
        with open_transaction(site, 0):
            while source.held_up().get(place, 0.0) < 1.0:
                assert time.monotonic() < until
                for assignment in source.poll(0.2).started:
                    source.start(assignment, 0)
            assert list(source.held_up()) == [place]
        while source.held_up():
            assert time.monotonic() < until
            source.poll(0.2)
