"""Our reader inside kafka-python's own Fetcher: the records that it delivers, and its position afterwards."""

import asyncio
import gzip
import struct
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.errors import CorruptRecordError
from kafka.future import Future

from tests.support.raw_kafka import CONTROL, GZIP, batch, record
from tests.unit.backends.kafka.batches.test_batch import message
from workers.backends.kafka.fetch import BoundedReading
from workers.types import ReadRecord

HERE, THERE = TopicPartition("images", 0), TopicPartition("images", 1)
LIMIT = 100_000
TRANSACTIONAL = 0x10


class Fetches:
    """A consumer's fetcher without its network: answers are put in by hand."""

    def __init__(
        self, *, bounded: bool = True, poll_bytes: int = 1 << 20, partitions: Sequence[TopicPartition] = (HERE, THERE)
    ) -> None:
        self.subscriptions = SubscriptionState("none")
        self.subscriptions.assign_from_user(partitions)
        for partition in partitions:
            self.subscriptions.seek(partition, 0)
        self.fetcher: Any = Fetcher(Mock(), self.subscriptions, isolation_level="read_committed")
        consumer = SimpleNamespace(_fetcher=self.fetcher, _subscription=self.subscriptions)
        self.reading = BoundedReading(consumer, batch_bytes=LIMIT, poll_bytes=poll_bytes) if bounded else None

    def answered(
        self,
        data: bytes,
        partition: TopicPartition = HERE,
        *,
        end: int = 1_000,
        stable: int | None = None,
        aborted: Any = None,
    ) -> None:
        told = SimpleNamespace(
            error_code=0,
            high_watermark=end,
            last_stable_offset=end if stable is None else stable,
            records=data,
            aborted_transactions=aborted,
            diverging_epoch=None,
            preferred_read_replica=-1,
        )
        self.fetcher._completed_fetches.append(CompletedFetch(partition, self.at(partition), 12, told, None))

    def poll(self) -> dict[TopicPartition, list[ReadRecord]]:
        if self.reading is not None:
            self.reading.begin()
        return dict(self.fetcher.fetched_records()[0])

    @property
    def reads_a_batch(self) -> bool:
        return bool(self.fetcher._next_partition_records)

    def at(self, partition: TopicPartition = HERE) -> int:
        position: Any = self.subscriptions.assignment[partition].position
        return int(position.offset)


class Broker:
    """A fetcher's connection to its only node: the sent requests, with work done at once."""

    def __init__(self, fetches: Fetches) -> None:
        self.asked: list[list[int]] = []
        self.happen: Callable[[], None] = lambda: None
        self._fetcher = fetches.fetcher
        self._fetcher._client.throttle_delay.return_value = 0
        manager = self._fetcher._manager
        manager.broker_version = None
        manager.connection_delay.return_value = 0
        manager.cluster.leader_for_partition.return_value = 1
        manager.cluster.leader_epoch_for_partition.return_value = 0
        manager.run, manager.send = self._run, self._send

    def poll(self, fetches: Fetches) -> tuple[dict[TopicPartition, list[ReadRecord]], bool]:
        """The records of a poll, and whether the client believes that no fetch is in flight."""
        if fetches.reading is not None:
            fetches.reading.begin()
        found, idle = self._fetcher.fetch_records(timeout_ms=0)
        return found, idle

    def _run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """As the client's own thread does it, between two answers."""
        self.happen()
        return asyncio.run(work())

    def _send(self, request: Any, node_id: int) -> Future:
        assert node_id == 1
        self.asked.append([partition.partition for topic in request.topics for partition in topic.partitions])
        self.under_way = Future()
        return self.under_way

    def answer(self, fetches: Fetches, data: bytes, partition: TopicPartition = HERE) -> None:
        fetches.answered(data, partition)
        self._fetcher._nodes_with_pending_fetch_requests.clear()
        self.under_way.success(SimpleNamespace(API_VERSION=6, responses=[]))


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


def values(found: dict[TopicPartition, list[ReadRecord]], partition: TopicPartition = HERE) -> list[bytes | None]:
    return [read.value for read in found.get(partition, [])]


def with_bad_name(offset: int) -> bytes:
    return batch([record(b"odd", headers=[(b"\xff", b"x")])], base_offset=offset)


def test_the_client_still_stays_where_it_failed() -> None:
    """Without our reader the half-read batch is kept, and the next poll goes round it for ever."""
    fetches = Fetches(bounded=False)
    fetches.answered(with_bad_name(0))
    with pytest.raises(CorruptRecordError):
        fetches.poll()
    assert fetches.reads_a_batch
    assert fetches.at() == 0


def test_a_record_that_the_client_can_not_read_is_read_and_those_behind_it(fetches: Fetches) -> None:
    fetches.answered(batch([record(b"a")]) + with_bad_name(1) + batch([record(b"b")], base_offset=2))
    assert values(fetches.poll()) == [b"a", b"odd", b"b"]
    assert fetches.at() == 3


def test_reading_begins_in_the_middle_of_a_batch_where_the_position_is(fetches: Fetches) -> None:
    fetches.subscriptions.seek(HERE, 5)
    fetches.answered(batch([record(b"%d" % n, delta=n) for n in range(4)], base_offset=3))
    assert values(fetches.poll()) == [b"2", b"3"]
    assert fetches.at() == 7


def test_the_position_is_behind_what_compaction_left_of_a_batch(fetches: Fetches) -> None:
    fetches.answered(batch([record(b"a")], last_delta=9) + batch([], base_offset=10, last_delta=4, count=0))
    assert values(fetches.poll()) == [b"a"]
    assert fetches.at() == 15


def test_records_of_aborted_transactions_and_markers_are_passed(fetches: Fetches) -> None:
    def of_transaction(value: bytes, offset: int, producer: int) -> bytes:
        return batch([record(value)], base_offset=offset, attributes=TRANSACTIONAL, producer_id=producer)

    def marker(offset: int, producer: int, kind: int) -> bytes:
        key = struct.pack(">hh", 0, kind)
        what = CONTROL | TRANSACTIONAL
        return batch([record(bytes(6), key=key)], base_offset=offset, attributes=what, producer_id=producer)

    parts = [of_transaction(b"gone", 0, 7), of_transaction(b"kept", 1, 8), marker(2, 7, 0), marker(3, 8, 1)]
    parts += [of_transaction(b"later", 4, 7), marker(5, 7, 1), marker(6, 9, 5)]
    fetches.answered(b"".join(parts), aborted=[SimpleNamespace(producer_id=7, first_offset=0)])
    assert values(fetches.poll()) == [b"kept", b"later"]
    assert fetches.at() == 7


def test_an_open_transaction_holds_up_the_records_behind_its_start_until_it_ends(fetches: Fetches) -> None:
    reading = fetches.reading
    assert reading is not None
    fetches.answered(batch([record(b"before")]), stable=1)
    fetches.poll()
    assert reading.held_up_s(HERE, fetches.at()) > 0
    assert reading.held_up_s(HERE, 0) == 0, "what stands before it can be read"
    assert reading.held_up_s(THERE, 0) == 0
    before = reading.held_up_s(HERE, 1)
    fetches.answered(b"", end=2_000, stable=1)
    fetches.poll()
    assert reading.held_up_s(HERE, 1) > before, "more came, and it is the same transaction"
    fetches.answered(batch([record(b"behind")], base_offset=1), end=2_000)
    fetches.poll()
    assert reading.held_up_s(HERE, fetches.at()) == 0


@pytest.mark.parametrize("magic", [0, 1])
def test_a_message_from_before_kafka_0_11_holds_its_partition_alone(fetches: Fetches, magic: int) -> None:
    fetches.answered(message(bytes(100), offset=0, magic=magic))
    with pytest.raises(CorruptRecordError, match=rf"images:0 at 0: the message format v{magic}, .*reset-offsets"):
        fetches.poll()
    fetches.answered(batch([record(b"there")]), THERE)
    assert values(fetches.poll(), THERE) == [b"there"]
    assert (fetches.at(), fetches.at(THERE)) == (0, 1)


def of_epoch(data: bytes, epoch: int) -> bytes:
    return data[:12] + struct.pack(">i", epoch) + data[16:]


def test_the_position_has_the_leader_epoch_of_the_last_batch_before_it() -> None:
    """The broker compares it with its own log after a change of leader. Guard: a truncation would go unnoticed."""
    fetches = Fetches(poll_bytes=1)
    fetches.answered(of_epoch(batch([record(b"a")]), 7))
    fetches.poll()
    assert fetches.subscriptions.assignment[HERE].position.leader_epoch == 7
    fetches.answered(batch([record(b"there")]), THERE)
    fetches.answered(of_epoch(batch([record(b"b")], base_offset=1), 8))
    assert list(fetches.poll()) == [THERE], "this poll has read enough"
    assert fetches.subscriptions.assignment[HERE].position.leader_epoch == 7


def test_a_partition_with_records_goes_behind_the_empty_ones() -> None:
    """kafka-python asks for them in this order, and a broker fills its answer in the order of the question."""
    fetches = Fetches(poll_bytes=1)
    fetches.answered(batch([record(b"a")]))
    fetches.answered(batch([record(b"b")]), THERE)
    assert list(fetches.poll()) == [HERE]
    assert list(fetches.subscriptions.assignment) == [THERE, HERE]


def test_a_batch_above_the_limit_is_one_record_without_a_value_for_all_its_offsets(fetches: Fetches) -> None:
    large = [record(bytes(LIMIT), delta=n) for n in range(3)]
    fetches.subscriptions.seek(HERE, 11)
    fetches.answered(batch(large, base_offset=10, attributes=GZIP, compress=gzip.compress, timestamp=5))
    ((found,),) = fetches.poll().values()
    assert (found.offset, found.offsets, found.value, found.timestamp_ms) == (11, 2, None, 5)
    assert found.unreadable is not None
    assert found.unreadable.reason == "batch-too-large"
    assert "Offsets 11 to 12" in found.unreadable.detail
    assert fetches.at() == 13


def test_a_batch_that_can_not_be_read_is_one_record_with_its_own_bytes(fetches: Fetches) -> None:
    bad = batch([record(b"a"), record(b"b", delta=1)], base_offset=4, attributes=6)
    fetches.answered(bad + batch([record(b"after")], base_offset=6))
    found, after = fetches.poll()[HERE]
    assert (found.offset, found.offsets, found.value, after.value) == (4, 2, bad, b"after")
    assert found.unreadable is not None
    assert found.unreadable.reason == "batch-unreadable"
    assert fetches.at() == 7


def test_a_batch_that_fails_its_checksum_is_fetched_again_before_it_is_given_up(fetches: Fetches) -> None:
    """It may be the network's doing. Guard: `failed_before`; at once, and a bit on the wire would cost a record."""
    good, bad = batch([record(b"good")]), batch([record(b"bad")], base_offset=1, spoil=1)
    fetches.answered(good + bad)
    assert values(fetches.poll()) == [b"good"]
    assert fetches.at() == 1
    assert fetches.poll() == {}
    fetches.answered(bad)
    ((found,),) = fetches.poll().values()
    assert (found.offset, found.offsets, found.value) == (1, 1, bad)
    assert fetches.at() == 2


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(batch([record(b"bad")], base_offset=1, spoil=1), id="fails its checksum"),
        pytest.param(struct.pack(">qi", 1, 9) + bytes(9), id="too short to be one"),
    ],
)
def test_nothing_behind_a_spoilt_batch_is_read_before_it(fetches: Fetches, spoilt: bytes) -> None:
    """Guard: the position would be behind the batch, and its records would never be read."""
    behind = batch([record(b"behind")], base_offset=2)
    fetches.answered(batch([record(b"before")]) + spoilt + behind)
    assert values(fetches.poll()) == [b"before"]
    assert fetches.at() == 1
    fetches.answered(batch([record(b"whole")], base_offset=1) + behind)
    assert values(fetches.poll()) == [b"whole", b"behind"]


def test_a_batch_that_is_spoilt_in_another_way_each_time_is_asked_for_again(fetches: Fetches) -> None:
    for spoil in (b"1", b"2", b"3"):
        data = bytearray(batch([record(b"x")]))
        data[-3:-2] = spoil
        fetches.answered(bytes(data))
        with pytest.raises(CorruptRecordError, match=r"images:0 at 0: .*fails its checksum; it is fetched again"):
            fetches.poll()
        assert fetches.poll() == {}
    fetches.answered(batch([record(b"x")]))
    assert values(fetches.poll()) == [b"x"]


def test_a_last_offset_that_can_not_be_believed_leads_no_further_than_the_partition_goes(fetches: Fetches) -> None:
    """Guard: after a checksum that fails the number of offsets is as doubtful as the rest."""
    bad = batch([record(b"bad")], last_delta=2**31 - 1, spoil=1)
    for _ in range(2):
        fetches.answered(bad, end=40)
        try:
            found = fetches.poll()
        except CorruptRecordError:
            continue
    assert [read.offsets for read in found[HERE]] == [40]
    assert fetches.at() == 40


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(batch([record(b"v")])[:-1], id="cut off"),
        pytest.param(bytes(8) + struct.pack(">i", -12) + bytes(90), id="a negative length"),
        pytest.param(bytes(8) + struct.pack(">i", 9) + bytes(90), id="too short to be one"),
        pytest.param(bytes(8) + struct.pack(">i", 4) + bytes(4), id="shorter than what says its format"),
        pytest.param(bytes(8) + struct.pack(">i", 20) + bytes(4) + b"\x02" + bytes(90), id="without a head"),
        pytest.param(bytes(3), id="three bytes"),
    ],
)
def test_an_answer_that_does_not_move_the_position_is_an_error_and_is_let_go(fetches: Fetches, data: bytes) -> None:
    """Guard: kept, or requested again within the poll, it would never leave."""
    fetches.answered(data)
    fetches.answered(batch([record(b"well")]), THERE)
    with pytest.raises(CorruptRecordError, match="images:0 at 0"):
        fetches.poll()
    assert values(fetches.poll(), THERE) == [b"well"]
    assert fetches.at() == 0
    assert not fetches.reads_a_batch


def test_the_client_still_asks_for_others_when_an_answer_comes_as_a_poll_begins() -> None:
    """Without our part new records of that partition wait until the others have some, or the broker's time is up."""
    fetches = Fetches(bounded=False)
    broker = Broker(fetches)
    broker.poll(fetches)
    broker.happen = lambda: broker.answer(fetches, batch([record(b"a")]))
    broker.poll(fetches)
    assert broker.asked == [[0, 1], [1]]


def test_the_client_still_overlooks_an_answer_of_its_only_partition_that_comes_as_a_poll_begins() -> None:
    """Without our part the poll takes it that nothing is under way, and sleeps for 100 ms."""
    fetches = Fetches(bounded=False, partitions=(HERE,))
    broker = Broker(fetches)
    broker.poll(fetches)
    broker.happen = lambda: broker.answer(fetches, batch([record(b"a")]))
    assert broker.poll(fetches) == ({}, True)


@pytest.mark.parametrize("partitions", [(HERE,), (HERE, THERE)])
def test_an_answer_that_comes_as_a_poll_begins_is_read_in_it_and_its_partition_asked_for_again(
    partitions: Sequence[TopicPartition],
) -> None:
    fetches = Fetches(partitions=partitions)
    broker = Broker(fetches)
    assert broker.poll(fetches) == ({}, False)
    broker.happen = lambda: broker.answer(fetches, batch([record(b"a")]))
    found, idle = broker.poll(fetches)
    assert values(found) == [b"a"]
    assert not idle
    broker.happen = lambda: None
    broker.poll(fetches)
    assert [sorted(asked) for asked in broker.asked] == 2 * [[partition.partition for partition in partitions]]


def test_a_batch_from_before_the_position_does_not_move_it_back(fetches: Fetches) -> None:
    fetches.subscriptions.seek(HERE, 50)
    fetches.answered(batch([record(b"old")], base_offset=3))
    with pytest.raises(CorruptRecordError, match="images:0 at 50"):
        fetches.poll()
    assert fetches.at() == 50


def test_records_beyond_a_polls_limit_are_dropped_and_fetched_again() -> None:
    """Guard: many small batches, each just below the limit, would be gigabytes in one poll."""
    fetches = Fetches(poll_bytes=50_000)
    one = [batch([record(bytes(30_000))], base_offset=n, attributes=GZIP, compress=gzip.compress) for n in range(4)]
    fetches.answered(b"".join(one))
    fetches.answered(one[0], THERE)
    assert {place: len(found) for place, found in fetches.poll().items()} == {HERE: 2}
    assert (fetches.at(HERE), fetches.at(THERE)) == (2, 0)
    fetches.answered(one[0], THERE)
    fetches.answered(b"".join(one[2:]), HERE)
    assert {place: len(found) for place, found in fetches.poll().items()} == {THERE: 1, HERE: 1}


def test_a_batch_above_the_limit_ends_its_poll() -> None:
    """Guard: to find out takes as long as to read the largest; hundreds of them fit into one answer."""
    fetches = Fetches(poll_bytes=LIMIT)
    large = [batch([record(bytes(LIMIT))], base_offset=n, attributes=GZIP, compress=gzip.compress) for n in range(3)]
    fetches.answered(b"".join(large))
    assert len(fetches.poll()[HERE]) == 1
    assert fetches.at() == 1


@pytest.mark.parametrize("floods", [1, 2, 4])
def test_partitions_full_of_large_batches_delay_no_other_for_long(floods: int) -> None:
    """Guard: `may_read`; a broker names the same partition first in every answer, and each poll ended with it."""
    partitions = [TopicPartition("images", number) for number in range(6)]
    fetches = Fetches(poll_bytes=LIMIT, partitions=partitions)
    large = record(bytes(LIMIT))
    polls: dict[TopicPartition, list[int]] = {partition: [] for partition in partitions}
    for poll in range(60):
        for number, partition in enumerate(partitions):
            at = fetches.at(partition)
            one = batch([large], base_offset=at, attributes=GZIP, compress=gzip.compress)
            fetches.answered(one if number < floods else batch([record(b"good")], base_offset=at), partition)
        for partition in fetches.poll():
            polls[partition].append(poll)
    for served in polls.values():
        gaps = [later - earlier for earlier, later in pairwise([0, *served, 60])]
        assert max(gaps) <= floods + 3


def test_a_partition_that_waits_for_its_turn_and_has_left_holds_up_no_other() -> None:
    fetches = Fetches(poll_bytes=LIMIT)
    large = batch([record(bytes(LIMIT))], attributes=GZIP, compress=gzip.compress)
    fetches.answered(large, HERE)
    fetches.answered(batch([record(b"good")]), THERE)
    assert list(fetches.poll()) == [HERE]
    fetches.answered(batch([record(b"next")], base_offset=1), HERE)
    assert fetches.poll() == {}
    fetches.answered(batch([record(b"next")], base_offset=1), HERE)
    assert values(fetches.poll()) == [b"next"]


@pytest.mark.parametrize("held_up_before", [False, True])
def test_a_partition_that_waits_for_its_turn_keeps_it_through_a_poll_that_brings_nothing(held_up_before: bool) -> None:
    """Guard: a partition loses its turn only if it held up others and was absent; in the last poll it had no record."""
    fetches = Fetches(poll_bytes=LIMIT)
    large = [batch([record(bytes(LIMIT))], base_offset=n, attributes=GZIP, compress=gzip.compress) for n in range(3)]
    fetches.answered(large[0], HERE)
    fetches.answered(batch([record(b"good")]), THERE)
    assert list(fetches.poll()) == [HERE]
    first, second = HERE, THERE
    if held_up_before:
        fetches.answered(large[1], HERE)
        fetches.answered(large[0], THERE)
        assert list(fetches.poll()) == [THERE]
        first, second = THERE, HERE
    assert fetches.poll() == {}
    fetches.answered(large[1], first)
    fetches.answered(large[1] if held_up_before else large[0], second)
    assert list(fetches.poll()) == [second]


def test_a_partition_may_have_its_turn_twice_in_one_poll() -> None:
    """A poll that has nothing to deliver asks the broker again. Guard: nothing is left to wait for then."""
    fetches = Fetches(poll_bytes=LIMIT)
    large = batch([record(bytes(LIMIT))], attributes=GZIP, compress=gzip.compress)
    good = batch([record(b"good")], base_offset=1)
    fetches.answered(large, HERE)
    fetches.answered(batch([record(b"good")]), THERE)
    fetches.poll()
    fetches.answered(good, HERE)
    fetches.answered(batch([record(b"good")]), THERE)
    assert list(fetches.poll()) == [THERE]
    fetches.answered(good, HERE)
    assert values(dict(fetches.fetcher.fetched_records()[0])) == [b"good"]
    assert fetches.poll() == {}


def test_a_paused_partition_keeps_fetched_records_and_returns_them_after_its_resume(fetches: Fetches) -> None:
    fetches.answered(batch([record(b"a")]))
    fetches.subscriptions.pause(HERE)
    assert fetches.poll() == {}
    fetches.subscriptions.resume(HERE)
    assert values(fetches.poll()) == [b"a"]
