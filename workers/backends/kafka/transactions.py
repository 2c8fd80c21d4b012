"""Transactions of version 2 (KIP-890) by kafka-python's producer, which itself speaks version 1.

Brokers of version 2 add a message's partition, and the group of offsets, to the transaction by themselves: three
requests one after the other in place of five. Each transaction's end is answered with the epoch of the next, so
whatever is late of one can't reach another. kafka-python 3.0.12 can write these requests and does not know their rules,
which are kept here; what becomes of errors stays the library's own. Used of it besides what it documents:

* `KafkaProducer._transaction_manager`, whose class is replaced: what it is about to ask passes `_enqueue_request`.
* `TransactionManager`: the partitions of a transaction, whether it has begun, and each partition's sequence numbers.
* `Sender._produce_request`, which makes the request of messages.

`tests/unit/backends/kafka/test_transactions.py` notices a library in which these are not what they were.
"""

from __future__ import annotations

from typing import Any

from kafka.producer.transaction_manager import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    ProducerIdAndEpoch,
    TransactionManager,
    TxnOffsetCommitHandler,
)
from kafka.protocol.producer import AddOffsetsToTxnResponse

_MESSAGES, _OFFSETS, _END = 12, 5, 5
"""The version of each request by which brokers know a client of version 2."""


def use_version_2(producer: Any) -> None:
    """Let this producer, which has sent nothing yet, use what its brokers are known to speak."""
    producer._transaction_manager.__class__ = _Transactions
    make = producer._sender._produce_request

    def made(*args: Any) -> Any:
        request = make(*args)
        request.API_VERSION = _MESSAGES
        return request

    producer._sender._produce_request = made


class _Transactions(TransactionManager):  # type: ignore[misc]
    def _enqueue_request(self, handler: Any) -> None:
        """What brokers add by themselves counts as added at once; the rest is asked in its version."""
        if isinstance(handler, AddPartitionsToTxnHandler):
            self._partitions_in_transaction |= self._pending_partitions_in_transaction
            self._transaction_started = True
            return
        if isinstance(handler, AddOffsetsToTxnHandler):
            handler.handle_response(AddOffsetsToTxnResponse(error_code=0))
            return
        if isinstance(handler, TxnOffsetCommitHandler):
            handler.request.API_VERSION = _OFFSETS
        elif isinstance(handler, EndTxnHandler):
            handler.request.API_VERSION = _END
            handler.__class__ = _End
        super()._enqueue_request(handler)


class _End(EndTxnHandler):  # type: ignore[misc]
    def handle_response(self, response: Any) -> None:
        transactions = self.transaction_manager
        told = ProducerIdAndEpoch(response.producer_id, response.producer_epoch)
        # To number anew under the same epoch would make a broker take the next message for one that it has.
        if response.error_code == 0 and told.is_valid and told != transactions.producer_id_and_epoch:
            # By then every message is acknowledged: none is sent again under what it was numbered with.
            transactions.producer_id_and_epoch = told
            transactions._sequence_numbers.clear()
        super().handle_response(response)
