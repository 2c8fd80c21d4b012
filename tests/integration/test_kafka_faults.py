"""The publisher while its broker is away, frozen or back again: nothing lost, nothing twice, no silent hang."""

import gc
import io
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.scratch import Scratch
from tests.fixtures import Unique, up_or_skip
from tests.support.kafka_worlds import KafkaWorld, assignments_of, poll_for
from tests.support.waiting import eventually
from workers.backends.kafka import KafkaPublisher, KafkaRecordSource
from workers.backends.kafka import publisher as kafka_publisher
from workers.errors import TagstreamError, Unpublished
from workers.service.logs import LimitedStream
from workers.types import Assignment, Membership, Message, Transaction

pytestmark = [pytest.mark.servers, pytest.mark.chaos]


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[ApacheKafka]:
    yield from up_or_skip(ApacheKafka(scratch.path / "broken-by-hand"))


class Scene:
    def __init__(self, broker: ApacheKafka, unique: Unique) -> None:
        self.broker = broker
        self.world = KafkaWorld(broker.servers, unique)
        # Longer than any fault here: the contract tests a lost membership.
        self.source: KafkaRecordSource = self.world.source(session_timeout_s=60)
        self.assignments = assignments_of(self.source)
        self.before_offsets: Callable[[], None] | None = None
        self.publisher: KafkaPublisher = self.world.publisher(self.source, membership=self._membership)
        self.publish(b"first")
        self._polling = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    @property
    def assignment(self) -> Assignment:
        return self.assignments[0]

    def run(self, value: bytes, offset: int) -> Transaction:
        return Transaction([Message(self.world.output, b"key", value, ())], {self.assignment: offset})

    def publish(self, value: bytes) -> None:
        self.publisher.publish(self.run(value, self.published + 1))

    @property
    def published(self) -> int:
        return len(self.world.visible())

    def in_background(self, call: Callable[[], None]) -> Future[None]:
        """On a thread that does not hold up the end of the tests, should it never return."""
        future: Future[None] = Future()

        def work() -> None:
            try:
                call()
            except TagstreamError as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=work, daemon=True).start()
        return future

    def settle(self, value: bytes, offset: int, outcome: Future[None]) -> None:
        try:
            outcome.result(40)
        except Unpublished:
            self.publisher.recover()
            committed = None
            while committed is None:
                committed = self.publisher.committed(self.assignment)
            if committed < offset:
                self.publisher.publish(self.run(value, offset))

    def close(self) -> None:
        self._polling.set()
        self._poller.join()
        self.world.close()

    def _poll(self) -> None:
        while not self._polling.is_set():
            poll_for(self.source, 0.2)

    def _membership(self) -> Membership:
        interrupt, self.before_offsets = self.before_offsets, None
        if interrupt is not None:
            interrupt()
        return self.source.membership()


@pytest.fixture
def scene(broker: ApacheKafka, unique: Unique) -> Iterator[Scene]:
    made = Scene(broker, unique)
    yield made
    made.close()


def values(scene: Scene) -> list[bytes | None]:
    return [record.value for record in scene.world.visible()]


def test_a_commit_called_while_the_broker_is_away_returns_when_it_is_back(scene: Scene) -> None:
    """Guard: fails without RetryingNetClient."""
    scene.before_offsets = scene.broker.stop
    outcome = scene.in_background(lambda: scene.publisher.publish(scene.run(b"second", 2)))
    time.sleep(4)
    assert not scene.broker.running
    assert not outcome.done()
    assert scene.publisher.stuck() is None
    scene.broker.start()
    scene.settle(b"second", 2, outcome)
    assert values(scene) == [b"first", b"second"]


def test_of_a_broker_that_is_away_the_client_says_one_line_a_state(scene: Scene) -> None:
    """Seen without: 305 lines in 25 seconds."""
    heard, written = logging.Handler(), io.StringIO()
    count = itertools.count()
    heard.emit = lambda record: next(count)  # type: ignore[method-assign, assignment]
    log = logging.getLogger("kafka")
    handlers = [heard, LimitedStream(written)]
    for handler in handlers:
        log.addHandler(handler)
    try:
        scene.broker.stop()
        eventually(lambda: next(count) > 500, 120)
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        scene.broker.start()
    assert 1 <= len(written.getvalue().splitlines()) <= 10, written.getvalue()


def test_polls_of_a_broker_that_is_frozen_leave_little_behind(scene: Scene) -> None:
    """Guard: a poll waits outside the client while a heartbeat is unanswered. Seen without: 317,000 blocks."""
    for assignment in scene.assignments.values():
        scene.source.start(assignment, 0)
    time.sleep(1)
    gc.collect()
    before = sys.getallocatedblocks()
    scene.broker.freeze()
    try:
        time.sleep(5)  # shorter than a fetch is waited for
        grown = sys.getallocatedblocks() - before
    finally:
        scene.broker.thaw()
    assert grown < 60_000
    scene.publish(b"second")
    assert values(scene) == [b"first", b"second"]


def test_the_committed_offset_settles_a_commit_during_a_freeze_of_the_broker(scene: Scene) -> None:
    commit = scene.publisher._producer.commit_transaction

    def freezing() -> None:
        scene.broker.freeze()
        threading.Timer(kafka_publisher.REQUEST_TIMEOUT_S + 2, scene.broker.thaw).start()
        commit()

    scene.publisher._producer.commit_transaction = freezing
    outcome = scene.in_background(lambda: scene.publisher.publish(scene.run(b"second", 2)))
    time.sleep(kafka_publisher.REQUEST_TIMEOUT_S - 1)
    assert not outcome.done()
    scene.settle(b"second", 2, outcome)
    assert values(scene) == [b"first", b"second"]


def test_messages_that_expire_in_a_transaction_are_published_again_with_the_rest(scene: Scene) -> None:
    scene.broker.freeze()
    outcome = scene.in_background(lambda: scene.publisher.publish(scene.run(b"second", 2)))
    assert isinstance(outcome.exception(60), Unpublished)
    scene.broker.thaw()
    scene.settle(b"second", 2, outcome)
    assert values(scene) == [b"first", b"second"]


def test_recovering_waits_for_a_broker_that_is_away_and_then_publishes(scene: Scene) -> None:
    scene.broker.stop()
    with pytest.raises(Unpublished):
        scene.publisher.publish(scene.run(b"second", 2))
    recovered = scene.in_background(scene.publisher.recover)
    time.sleep(3)
    assert not recovered.done()
    scene.broker.start()
    recovered.result(30)
    scene.publisher.publish(scene.run(b"second", 2))
    assert values(scene) == [b"first", b"second"]
