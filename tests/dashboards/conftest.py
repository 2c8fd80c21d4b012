"""A Prometheus for a file of tests, which `make dashboards` builds, and servers for all, which they break."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Stack, own, up_or_skip
from tests.support.prometheus import Prometheus


@pytest.fixture(scope="package")
def stack(scratch: Scratch) -> Iterator[Stack]:
    """Servers to kill and to freeze; a test leaves them running."""
    with (
        contextmanager(own)(ApacheKafka, scratch) as kafka,
        contextmanager(own)(SeaweedFS, scratch) as s3,
        contextmanager(own)(Valkey, scratch) as valkey,
    ):
        yield Stack(kafka, s3, valkey)


@pytest.fixture(scope="module")
def prometheus(scratch: Scratch) -> Iterator[Prometheus]:
    yield from up_or_skip(Prometheus(scratch.path / "prometheus", every_s=2))
