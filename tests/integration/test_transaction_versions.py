"""Which transactions a producer uses follows what the brokers have agreed on when it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import up_or_skip
from tests.support.broker import BrokerBehindProxy, agree
from tests.support.kafka_proxy import Api
from tests.support.kafka_worlds import KafkaWorld, assignments_of
from tests.support.waiting import eventually
from workers.backends.kafka.topics import transaction_version
from workers.types import Message, Transaction

pytestmark = pytest.mark.servers


@pytest.fixture
def broker(scratch: Scratch) -> Iterator[BrokerBehindProxy]:
    yield from up_or_skip(BrokerBehindProxy(scratch.path / "agreeing-kafka"))


def test_a_producer_goes_by_what_the_brokers_have_agreed_on_when_it_is_made(
    broker: BrokerBehindProxy, unique: Callable[[str], str]
) -> None:
    """One that is at work stays with what it knows, which its brokers go on to serve."""
    world = KafkaWorld(broker.proxied, unique)
    source = world.source()
    assignment = assignments_of(source)[0]
    publisher = world.publisher(source)
    expected: list[bytes] = []

    def adds_group() -> bool:
        """Publish; whether the group was added to the transaction before its offsets, as version 1 does it."""
        expected.append(b"%d" % len(expected))
        messages = [Message(world.output, b"key", expected[-1], ())]
        adding = broker.proxy.hold(Api.ADD_OFFSETS_TO_TXN)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publisher.publish, Transaction(messages, {assignment: len(expected)}))
            eventually(lambda: adding.caught or publishing.done(), 20)
            added = adding.caught
            adding.release()
            publishing.result(30)
        assert [read.value for read in world.visible()] == expected
        assert world.committed() == {0: len(expected)}
        return added

    try:
        assert transaction_version(broker.servers) == 2
        assert not adds_group()
        assert not adds_group()
        agree(broker, 1)
        assert transaction_version(broker.servers) == 1
        assert not adds_group()
        publisher.recover()
        assert adds_group()
        assert adds_group()
        agree(broker, 2)
        assert adds_group()
        publisher.recover()
        assert not adds_group()
    finally:
        publisher.close()
        source.close()
        world.close()
