"""Where the suites of the Kafka ports run: on the in-memory broker and on Apache Kafka."""

from collections.abc import Iterator

import pytest

from tests.fixtures import Unique
from tests.support.kafka_worlds import KafkaWorld, MemoryWorld, OwnTopics


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest, unique: Unique) -> Iterator[OwnTopics]:
    yield from opened(request.param, request, unique)


def opened(kind: str, request: pytest.FixtureRequest, unique: Unique) -> Iterator[OwnTopics]:
    made: OwnTopics = (
        MemoryWorld() if kind == "memory" else KafkaWorld(request.getfixturevalue("kafka").servers, unique)
    )
    yield made
    made.close()
