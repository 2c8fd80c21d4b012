"""A topic that grows while it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.fixtures import Stack
from tests.hostile.witness import Witness
from tests.support.raw_kafka import batch, produce, record
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

WITHIN_S = 75
"""The names of partitions are asked for every 30 s; the rest is for the group to share them out."""


def test_partitions_that_are_added_are_read_within_a_minute(
    stack: Stack, unique: Callable[[str], str], tmp_path: Path
) -> None:
    site = Site(stack, unique("grows"), partitions=1)
    site.upload("cat.jpg", photo(1, 48))
    servers = stack.kafka.servers
    with worker(site, "w", tmp_path) as process, Witness(site, ()) as witness:
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_partitions([NewPartitions(site.images, 3)])[site.images].result(30)
        places = set()
        for partition in range(3):
            error, offset = produce(servers, site.images, partition, batch([record(site.own("cat.jpg"))]))
            assert error == 0
            places.add((partition, offset))
        eventually(lambda: not witness.unanswered(places), WITHIN_S, process.said)
        assert process.get("/readyz")[0] == 200
