"""The private parts of kafka-python 3.0.12 that we use. No other module touches a private name of the library.

Before you raise the version, run `tests/unit/backends/kafka`, `tests/contract` and `tests/integration/test_kafka_*.py`.
Each function names the test that notices a change, and what upstream must offer before the function can go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.protocol.consumer import IsolationLevel

MakeReader: TypeAlias = Callable[[TopicPartition, int, int, Sequence[Any], Callable[[Any], None]], Any]
"""From a partition, the fetched offset, the leader's epoch, aborted transactions, and the call when it is drained."""


def read_by(consumer: KafkaConsumer, make: MakeReader, note: Callable[[TopicPartition, Any], None]) -> None:
    """Have a consumer's answers read by our own class.

    Three attributes of its `Fetcher` are replaced:

    * `PartitionRecords`, the class that reads batches, by `make`. The library's reads a batch without a bound, takes a
      header's name that is not UTF-8 for a corrupt record, and after an error repeats the half-read batch without end.
    * `_parse_fetched_data`: passes the bytes to our class (`give`), and the partition's part of the answer to `note`,
      since the library drops the end and the last stable offset.
    * `_send_fetches_async`: sends no request while an answer waits to be read. The library overlooks an answer that
      comes as a poll begins: its partition waits for the answer of the next request (`fetch_max_wait_ms`), or the poll
      sleeps for 100 ms.

    Test:
        unit/backends/kafka/test_fetch.py::test_the_client_still_stays_where_it_failed
        unit/backends/kafka/test_fetch.py::test_the_client_still_asks_for_others_when_an_answer_comes_as_a_poll_begins
    Upstream:
        a bound of a decompressed batch, a position that moves past an unreadable one, and no fetch while an answer
        waits
    """
    fetcher = consumer._fetcher
    parse: Callable[[Any], Any] = fetcher._parse_fetched_data
    send: Callable[[], Awaitable[Any]] = fetcher._send_fetches_async

    def parse_fetched_data(completed: Any) -> Any:
        data, completed.partition_data.records = completed.partition_data.records or b"", b""
        note(completed.topic_partition, completed.partition_data)
        parsed = parse(completed)
        if parsed is not None:
            parsed.give(data, completed.partition_data.high_watermark)
        return parsed

    async def send_fetches_async() -> Any:
        return [] if fetcher._completed_fetches else await send()

    def partition_records(
        fetch_offset: int,
        partition: TopicPartition,
        _records: Any,
        *,
        isolation_level: int,
        aborted_transactions: Sequence[Any] | None,
        on_drain: Callable[[Any], None],
        **_others: Any,
    ) -> Any:
        leader_epoch = consumer._subscription.assignment[partition].position.leader_epoch
        committed_only = isolation_level == IsolationLevel.READ_COMMITTED
        aborted = aborted_transactions or () if committed_only else ()
        return make(partition, fetch_offset, leader_epoch, aborted, on_drain)

    fetcher.PartitionRecords = partition_records
    fetcher._parse_fetched_data = parse_fetched_data
    fetcher._send_fetches_async = send_fetches_async


def positions(consumer: KafkaConsumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    """Position and last known end of each partition, if both are known. Any thread.

    Test: contract/test_record_source.py::test_the_end_of_a_partition_is_known_once_it_was_read
    Upstream: positions and ends without a request
    """
    # Of the client's own state only what one step reads: it belongs to other threads.
    known = consumer._subscription.assignment
    states = {place: known.get(place) for place in partitions}
    return {
        place: (position.offset, state.highwater)
        for place, state in states.items()
        if state is not None and state.highwater is not None and (position := state.position) is not None
    }


def finish_pending_join(consumer: KafkaConsumer) -> None:
    """Request a join again that has begun and is not complete.

    The library asks at each poll whether it needs to join. If metadata changed and changed back before the answer, no
    code takes that answer: heartbeats stop, and the group expels the member unnoticed.

    Test: unit/backends/kafka/test_source.py::test_a_join_that_has_begun_is_requested_until_it_is_complete
    Upstream: a poll that completes each join that it began
    """
    coordinator = consumer._coordinator
    with coordinator._lock:
        if coordinator.rejoining:
            coordinator.request_rejoin()


def heartbeat_is_overdue(consumer: KafkaConsumer) -> bool:
    """Whether a member's heartbeat has no answer yet.

    Test: unit/backends/kafka/test_source.py::test_a_member_with_an_unanswered_heartbeat_waits_outside_the_client
    Upstream: a poll that waits while a heartbeat has no answer
    """
    coordinator = consumer._coordinator
    return bool(coordinator.stable() and coordinator.time_to_next_poll() == 0)


def has_coordinator(consumer: KafkaConsumer) -> bool:
    """Whether a broker leads the group.

    Test: unit/backends/kafka/test_source.py::test_a_group_that_no_broker_leads_is_counted_again_and_again
    Upstream: whether a broker leads the group
    """
    return consumer._coordinator.coordinator_id is not None


def pace_coordinator_lookups(consumer: KafkaConsumer) -> None:
    """Look up the coordinator only as often as connections are allowed.

    The other brokers name a dead one as the coordinator until the controller gives it up (9 s by Kafka's defaults), and
    the library asks again at once (measured: 600 times a second, each with a warning).

    Test: unit/backends/kafka/test_source.py::test_a_coordinator_that_can_not_be_reached_is_not_looked_up_at_once
    Upstream: a pause between lookups of a dead coordinator
    """
    coordinator = consumer._coordinator
    ask = coordinator._send_group_coordinator_request

    async def patiently() -> Any:
        named = await ask()
        if (delay_s := consumer._client.connection_delay(named)) > 0:
            await coordinator._manager._net.sleep(delay_s)
        return named

    coordinator._send_group_coordinator_request = patiently


def stop_sender(producer: KafkaProducer, within_s: float) -> bool:
    """Stop a producer's thread; False if it still runs. The finalizer flushes nothing afterwards.

    Test: unit/backends/kafka/test_client.py::test_a_producer_is_ended_although_closing_it_raises
    Upstream: a `close` that always ends the thread
    """
    sender = producer._sender
    sender.force_close()
    sender.join(within_s)
    producer._closed = True
    return not sender.is_alive()


def close_connections(consumer: KafkaConsumer) -> None:
    """Close a consumer's connections.

    Test: unit/backends/kafka/test_client.py::test_a_consumer_that_can_not_leave_its_group_closes_its_connections
    Upstream: a `close` that always closes the connections
    """
    consumer._client.close()


def brokers_named_by(client: KafkaNetClient, timeout_s: float) -> list[Any] | None:
    """The brokers in the answer of a client's only node; None without an answer.

    Test: integration/test_kafka_tools.py::test_a_cluster_answers_although_one_of_its_nodes_hangs
    Upstream: a question to one broker, with a time limit
    """
    try:
        client._manager.bootstrap(timeout_ms=int(timeout_s * 1000))
    except (KafkaError, OSError):
        return None
    return list(client.cluster.brokers())


def brokers_of(client: KafkaAdminClient) -> list[Any]:
    """The brokers that the cluster has now.

    Test: unit/assembly/test_topics.py::test_topics_are_created_once_and_differences_are_found
    Upstream: a `describe_cluster` for brokers before 3.7
    """
    return list(client._manager.cluster.brokers())
