"""What brokers say about themselves, by what the client makes of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import errors as kafka_errors

from workers.backends.kafka import topics as kafka_topics
from workers.backends.kafka.client import mapped
from workers.backends.kafka.topics import transaction_version
from workers.errors import Unavailable


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Mock:
    made = Mock()

    @contextmanager
    def admin(*_: Any, **__: Any) -> Iterator[Mock]:
        with mapped("asking the cluster"):
            yield made

    monkeypatch.setattr(kafka_topics, "admin", admin)
    return made


@pytest.mark.parametrize(
    ("features", "version"),
    [
        ({"transaction.version": {"supported": (0, 2), "finalized": (0, 2)}}, 2),
        ({"transaction.version": {"supported": (0, 2), "finalized": (1, 1)}}, 1),
        ({"transaction.version": {"supported": (0, 2)}}, 0),
        ({"metadata.version": {"finalized": (1, 25)}}, 0),
        ({}, 0),
    ],
)
def test_the_version_of_transactions_is_the_one_agreed_on(
    client: Mock, features: Mapping[str, object], version: int
) -> None:
    client.describe_features.return_value = features
    assert transaction_version("broker:9092") == version


@pytest.mark.parametrize("kind", [kafka_errors.IncompatibleBrokerVersion, kafka_errors.UnsupportedVersionError])
def test_brokers_that_do_not_know_the_question_have_agreed_on_nothing(client: Mock, kind: type[Exception]) -> None:
    """Guard: a worker must start with them."""
    client.describe_features.side_effect = kind("ApiVersions")
    assert transaction_version("broker:9092") == 0


def test_a_broker_that_is_gone_is_no_answer(client: Mock) -> None:
    client.describe_features.side_effect = kafka_errors.KafkaConnectionError("gone")
    with pytest.raises(Unavailable):
        transaction_version("broker:9092")
