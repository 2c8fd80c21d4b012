"""A transaction's offsets, sent while its messages are under way.

kafka-python 3.0.12 has one request of a transaction under way at a time: the partitions are added, the messages sent,
the group added, its offsets sent, each only after the answer to the one before. The protocol asks for less (KIP-98):
the group may be added while the partitions are, and its offsets may be sent once it is. Only the end of the
transaction has to wait for all. So those two requests are made here, by the library and on its connection to the
coordinators, which is not the one that takes the messages.

Whatever does not succeed within a moment (a coordinator that moves, a membership that is refused) is left to the
library, which then sends the same offsets again and knows each error: within one transaction that changes nothing. Used
of it besides what it documents:

* `KafkaProducer._sender._client._manager`: runs a coroutine on the producer's thread, and sends a request.
* `KafkaProducer._transaction_manager`: where the coordinators are, and which partitions are to be added.
* The handlers of both requests, which make them.

`tests/unit/backends/test_kafka_offsets.py` notices a library in which these are not what they were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.producer.transaction_manager import AddOffsetsToTxnHandler, TxnOffsetCommitHandler
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

_CONCURRENT = kafka_errors.ConcurrentTransactionsError.errno
_LOADING = kafka_errors.CoordinatorLoadInProgressError.errno
_RETRY_S = 0.01
_TRIES = 50
"""How often each is sent: the broker may still be ending the transaction before."""
_LOOK_S = 0.001
_LOOKS = 500


class OffsetsMeanwhile:
    """The offsets of a transaction that has begun, on their way from now on.

    The transaction must have messages, and must not end before `accepted` has returned: else offsets could arrive at a
    group after the transaction that they belong to.

    Args:
        producer: whose transaction it is; it has sent offsets to this group before.
    """

    def __init__(
        self, producer: Any, group: ConsumerGroupMetadata, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        self._answered = threading.Event()
        self._future = producer._sender._client._manager.call_soon(_send, producer, group, offsets)
        self._future.add_both(lambda _: self._answered.set())

    def accepted(self, timeout_s: float) -> bool:
        """Whether the group has taken them all into the transaction. If not, nothing of them is under way any more.

        Raises:
            kafka.errors.KafkaTimeoutError: that is not known within `timeout_s`.
        """
        if not self._answered.wait(timeout_s):
            raise kafka_errors.KafkaTimeoutError(f"the offsets of a transaction have no answer after {timeout_s:g} s")
        return bool(self._future.succeeded() and self._future.value)


def knows_coordinators(producer: Any) -> bool:
    """Whether offsets can be sent meanwhile: the library looks for a group's coordinator when it first needs it."""
    transactions = producer._transaction_manager
    return None not in (transactions._transaction_coordinator, transactions._consumer_group_coordinator)


async def _send(
    producer: Any, group: ConsumerGroupMetadata, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> bool:
    """On the producer's thread. Whether all were taken."""
    transactions, manager = producer._transaction_manager, producer._sender._client._manager
    # Behind the library's own request on its connection, so that the broker is done with that one first.
    if not await _soon(manager, lambda: not transactions._new_partitions_in_transaction):
        return False
    adding = AddOffsetsToTxnHandler(transactions, group, offsets).request
    at = transactions._transaction_coordinator
    added = await _answer(manager, at, adding, lambda answer: answer.error_code == _CONCURRENT)
    # While a transaction is being added to, brokers refuse what they are to verify in it.
    if added.error_code or not await _soon(manager, lambda: not transactions.has_partitions_to_add()):
        return False
    sending = TxnOffsetCommitHandler(transactions, group, offsets, None).request
    at = transactions._consumer_group_coordinator
    # A broker that leads the messages' partition as well may fail to verify both at once, and says this.
    answer = await _answer(manager, at, sending, lambda answer: _LOADING in _errors(answer).values())
    errors = _errors(answer)
    return errors.keys() == offsets.keys() and not any(errors.values())


def _errors(answer: Any) -> dict[TopicPartition, int]:
    """What a group says of each partition's offset; 0: it has taken it."""
    return {
        TopicPartition(topic.name, partition.partition_index): partition.error_code
        for topic in answer.topics
        for partition in topic.partitions
    }


async def _answer(manager: Any, node: object, request: Any, again: Callable[[Any], bool]) -> Any:
    """The answer to a request, which is sent again while a moment's trouble is all that it says."""
    for _ in range(_TRIES):
        answer = await manager.send(request, node_id=node)
        if not again(answer):
            break
        await manager._net.sleep(_RETRY_S)
    return answer


async def _soon(manager: Any, happened: Callable[[], bool]) -> bool:
    """Wait for what the library does by itself; whether it has."""
    for _ in range(_LOOKS):
        if happened():
            return True
        await manager._net.sleep(_LOOK_S)
    return False
