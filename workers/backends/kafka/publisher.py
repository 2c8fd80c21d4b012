"""Publishes outcomes and offsets to Kafka, in one transaction or in turn.

kafka-python 3.0.12 needs these rules so that nothing is lost or published twice:

* Every message's future is asked before the commit. Otherwise a commit succeeds without a message that expired inside
  its transaction.
* The group's membership is read after that, not per job: the broker always refuses metadata from before a join. It is
  checked against every assignment, because the broker does not check a membership without a generation, nor the owner
  of a partition.
* After any failure the producer is ended and replaced. One that has failed or aborted keeps offsets of the failed
  transaction and commits them with the next.
* Only this thread writes offsets, within transactions. A commit outside of them would win over theirs in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from workers import metrics
from workers.backends.kafka.client import (
    CallWatchdog,
    RetryingNetClient,
    Security,
    answers,
    connect,
    end_consumer,
    end_producer,
    mapped,
    translated,
)
from workers.backends.kafka.topics import max_message_bytes
from workers.backends.kafka.types import Delivery, FencingDetector, OffsetReset, check_sendable, refusal
from workers.errors import Misconfigured, TagstreamError, Unavailable, Unpublished
from workers.types import Assignment, Membership, Message, Partition, Transaction

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 6.0
_DELIVERY_TIMEOUT_S = 8.0
_LOOKUP_S = 2.0
_CONNECT_S = 3.0
"""One try to reach a broker that was away; at the end of the process it is waited for."""
_RETRY_S = 0.5
_PAUSE_S = 0.02
_CLEANUP_S = 10.0
"""How much later than a transaction's timeout the broker may abort it."""
_LOST_ASK_S = 10.0
"""Pause between questions about an endless transaction: each one costs the other partitions `_LOOKUP_S`."""
_LOST_TELL_S = 60.0

_CAUSES: Sequence[tuple[str, tuple[type[Exception], ...]]] = (
    (
        "membership",
        (
            kafka_errors.CommitFailedError,
            kafka_errors.RebalanceInProgressError,
            kafka_errors.IllegalGenerationError,
            kafka_errors.UnknownMemberIdError,
        ),
    ),
    ("fenced", (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)),
    ("timeout", (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)),
    ("size", (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)),
    ("authorization", (kafka_errors.AuthorizationError,)),
)


def cause_of(error: BaseException) -> str:
    """One word for why a transaction failed; kafka-python often wraps the cause."""
    seen: BaseException | None = error
    while seen is not None:
        for cause, kinds in _CAUSES:
            if isinstance(seen, kinds):
                return cause
        inner = next((part for part in seen.args if isinstance(part, BaseException)), None)
        seen = seen.__cause__ or inner
    return "broker"


def _require_allowed(error: kafka_errors.KafkaError) -> None:
    """Raises Misconfigured: no try can help, because an ACL forbids it."""
    if cause_of(error) == "authorization":
        raise Misconfigured(
            f"the brokers deny publishing ({error}): grant Write on the output topics, Read on the group"
            " and Write on the transactional id"
        ) from error


@dataclass(slots=True)
class _Pending:
    """A partition on which a transaction is pending. Times are monotonic seconds."""

    since: float
    ask_at: float = 0.0
    tell_at: float = 0.0


class KafkaPublisher:
    """Publishes outcomes with their offsets (`workers.ports.Publisher`).

    Args:
        transactional_id: of this worker alone, and the same after a restart: taking it again ends the open transaction
            of the worker before.
        output_topics: every topic that a message may name; they must exist.
        delivery: "exactly_once", or "at_least_once": messages first, their offsets after.
        offset_reset: where a group without committed offsets begins.
        commit: the source's `commit`; needed for at_least_once, which commits by the member's own requests.
        transaction_timeout_s: after how long the broker aborts a transaction; 8 to 15.

    Raises:
        Misconfigured: an output topic does not exist, or settings that can't work.
        Unavailable: no broker answers.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        transactional_id: str,
        *,
        membership: Callable[[], Membership],
        output_topics: Sequence[str],
        delivery: Delivery = "exactly_once",
        offset_reset: OffsetReset = "earliest",
        commit: Callable[[Mapping[Partition, int], float], None] | None = None,
        security: Security | None = None,
        transaction_timeout_s: float = 10.0,
        connect_timeout_s: float = 30.0,
    ) -> None:
        if delivery == "at_least_once" and commit is None:
            raise ValueError("at_least_once needs the source's commit")
        self._servers = servers
        self._security = dict(security or {})
        self._group = group
        self._transactional_id = transactional_id
        self._membership = membership
        self._transactional = delivery == "exactly_once"
        self._offset_reset = offset_reset
        self._commit_beside = commit
        self._transaction_timeout_s = transaction_timeout_s
        self._fencing = FencingDetector(transactional_id, transaction_timeout_s)
        self._clock = CallWatchdog(REQUEST_TIMEOUT_S, self._broker_answers)
        self._pending: dict[Partition, _Pending] = {}
        self.lost: Mapping[Assignment, str] = {}
        self._interrupted = threading.Event()
        self._limits: dict[str, int] = {}
        self.max_message_bytes: Mapping[str, int] = self._limits
        self._read_limits(output_topics, connect_timeout_s)
        self._offsets = self._make_offsets_consumer(connect_timeout_s)
        self._producer: Any = self._make_producer(connect_timeout_s)
        self._failed = False

    def publish(self, transaction: Transaction) -> None:
        if self._failed:
            raise RuntimeError("publish after a failed transaction: recover must come first")
        check_sendable(transaction.messages, self.max_message_bytes)
        self._failed = True
        try:
            self._publish(transaction)
        except kafka_errors.KafkaError as error:
            _require_allowed(error)
            unpublished = Unpublished(cause_of(error), str(error))
            self._fencing.note(unpublished.cause)
            raise unpublished from error
        self._failed = False

    def recover(self) -> None:
        end_producer(self._producer, within_s=REQUEST_TIMEOUT_S + 4)
        self._failed = True
        tried = 0
        while not self._interrupted.is_set():
            try:
                # A lowered limit may be the cause, and often hides behind another error.
                self._read_limits(tuple(self._limits), _CONNECT_S)
                self._producer = self._make_producer(timeout_s=_CONNECT_S)
            except Unavailable as error:
                tried += 1
                metrics.RETRIES.add(dependency="kafka")
                logger.warning("attempt %d to open a new producer failed: %s", tried, error)
                time.sleep(_RETRY_S)
            else:
                self._fencing.initialised()
                self._failed = False
                return

    def committed(self, assignment: Assignment) -> int | None:
        # The member id first, the offset second: by then other members' commits of the partition are decided.
        if refusal(self._membership(), [assignment]) is not None or self._asked_of_late(assignment):
            # The caller will ask again, and no question has made it wait.
            time.sleep(_PAUSE_S)
            return None
        try:
            offset = self._offsets.committed(TopicPartition(*assignment.partition), timeout_ms=int(_LOOKUP_S * 1000))
        except kafka_errors.KafkaError as error:
            self._note_unanswered(assignment, error)
            return None
        self._note_answered(assignment)
        if offset is None:
            return self._first_offset(assignment)
        return int(offset) if assignment.current else None

    def interrupt(self) -> None:
        self._interrupted.set()

    def stuck(self) -> str | None:
        return self._clock.check()

    def close(self) -> None:
        try:
            end_producer(self._producer, within_s=REQUEST_TIMEOUT_S)
            if self._failed and self._transactional and not self._fencing.fenced:
                self._end_open_transaction()
        finally:
            end_consumer(self._offsets)

    def _end_open_transaction(self) -> None:
        """Take our id once more, which ends the transaction before its time-out."""
        try:
            ender = self._make_producer(timeout_s=_LOOKUP_S)
            end_producer(ender, within_s=REQUEST_TIMEOUT_S)
        except TagstreamError as error:
            logger.warning("the failed transaction stays open until it times out: %s", error)

    # One transaction

    def _publish(self, transaction: Transaction) -> None:
        if self._transactional:
            self._producer.begin_transaction()
        self._send(transaction.messages)
        membership = self._membership()
        if transaction.offsets and (reason := refusal(membership, transaction.offsets)) is not None:
            raise kafka_errors.CommitFailedError(reason)
        self._commit(membership, {assignment.partition: offset for assignment, offset in transaction.offsets.items()})

    def _send(self, messages: Iterable[Message]) -> None:
        send = self._producer.send
        sent = [send(each.topic, each.value, each.key, list(each.headers), each.partition) for each in messages]
        self._producer.flush(timeout=_DELIVERY_TIMEOUT_S + 1)
        for future in sent:
            future.get(timeout=1)

    def _commit(self, membership: Membership, offsets: Mapping[Partition, int]) -> None:
        if not self._transactional:
            assert self._commit_beside is not None
            with self._clock.watching("the commit of offsets"):
                self._commit_beside(offsets, REQUEST_TIMEOUT_S)
            return
        at = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        if at:
            with self._clock.watching("sending offsets to the transaction"):
                self._producer.send_offsets_to_transaction(
                    at, ConsumerGroupMetadata(self._group, membership.generation, membership.member_id)
                )
        with self._clock.watching("the commit of a transaction"):
            self._producer.commit_transaction()

    # Clients

    def _read_limits(self, topics: Sequence[str], timeout_s: float) -> None:
        found = max_message_bytes(self._servers, topics, security=self._security, connect_timeout_s=timeout_s)
        self._limits.update(found)

    def _make_producer(self, timeout_s: float) -> Any:
        """A producer that can publish; with transactions, it ended the id's open one. Raises Unavailable: not now."""
        limits = self.max_message_bytes.values()
        settings: dict[str, Any] = {}
        if self._transactional:
            settings["transactional_id"] = self._transactional_id
            settings["transaction_timeout_ms"] = int(self._transaction_timeout_s * 1000)
        producer = connect(
            KafkaProducer,
            self._servers,
            self._security,
            timeout_s=timeout_s,
            kafka_client=RetryingNetClient,
            # A record that is not too large itself must not become so in company. After a partition's first batch each
            # message wakes the library's thread.
            batch_size=min(262_144, *limits),
            max_request_size=max(limits),
            linger_ms=2,
            request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
            delivery_timeout_ms=int(_DELIVERY_TIMEOUT_S * 1000),
            max_block_ms=int(_DELIVERY_TIMEOUT_S * 1000),
            # The default makes every transaction wait in steps of 100 ms for the one before.
            retry_backoff_ms=15,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **settings,
        )
        if self._transactional:
            self._initialise(producer)
        return producer

    def _initialise(self, producer: Any) -> None:
        try:
            with mapped(f"taking the transactional id {self._transactional_id!r}"):
                producer.init_transactions()
        except TagstreamError:
            end_producer(producer, within_s=REQUEST_TIMEOUT_S + 4)
            raise

    def _make_offsets_consumer(self, timeout_s: float) -> Any:
        """A consumer outside of the group that waits for pending transactions."""
        return connect(
            KafkaConsumer,
            self._servers,
            self._security,
            timeout_s=timeout_s,
            group_id=self._group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
            metrics_enabled=False,
        )

    def _broker_answers(self) -> bool:
        return answers(self._servers, self._security)

    # Offsets

    def _asked_of_late(self, assignment: Assignment) -> bool:
        """Whether the partition was asked a moment ago, without an answer yet."""
        pending = self._pending.get(assignment.partition)
        return assignment in self.lost and pending is not None and time.monotonic() < pending.ask_at

    def _note_answered(self, assignment: Assignment) -> None:
        self._pending.pop(assignment.partition, None)
        if assignment in self.lost:
            logger.info("%s is answered again: continuing with it", assignment.partition)
            self._tell_lost(assignment, None)

    def _note_unanswered(self, assignment: Assignment, error: kafka_errors.KafkaError) -> None:
        """Find out by its age whether a pending transaction never ends. Raises Misconfigured: we may not ask."""
        told = translated(f"asking for the offsets of {self._group!r}", error)
        if not isinstance(told, Unavailable):
            raise told from error
        now = time.monotonic()
        if not self._broker_answers():
            self._pending.pop(assignment.partition, None)
            self._tell_lost(assignment, None)
            return
        pending = self._pending.setdefault(assignment.partition, _Pending(now - _LOOKUP_S))
        if now - pending.since <= self._transaction_timeout_s + _CLEANUP_S:
            return
        why = (
            f"transaction marker lost: the broker has counted a transaction on {assignment.partition} as pending for"
            f" {now - pending.since:.0f} s, longer than any may last"
        )
        self._tell_lost(assignment, why)
        pending.ask_at = now + _LOST_ASK_S
        if now >= pending.tell_at:
            pending.tell_at = now + _LOST_TELL_S
            logger.error("%s. The partition stops until the transaction ends; others continue", why)

    def _tell_lost(self, assignment: Assignment, why: str | None) -> None:
        lost = {known: said for known, said in self.lost.items() if known.current and known is not assignment}
        self.lost = lost if why is None else {**lost, assignment: why}

    def _first_offset(self, assignment: Assignment) -> int | None:
        """Commit a group's first offset, so that later workers begin there too.

        Safe as any commit: the membership is read before and checked against the assignment, and the broker refuses it
        if the group has moved on. The missing offset was read under the same member id, so no other member can have
        read the partition in between.
        """
        partition = TopicPartition(*assignment.partition)
        ask = self._offsets.beginning_offsets if self._offset_reset == "earliest" else self._offsets.end_offsets
        try:
            offset = int(ask([partition], timeout_ms=int(_LOOKUP_S * 1000))[partition])
            membership = self._membership()
            if refusal(membership, [assignment]) is not None:
                return None
        except kafka_errors.KafkaError as error:
            told = translated(f"asking where {assignment.partition} begins", error)
            if not isinstance(told, Unavailable):
                raise told from error
            logger.warning("no first offset for %s yet, as its leader does not answer: %s", assignment.partition, error)
            return None
        try:
            if self._transactional:
                self._producer.begin_transaction()
            self._commit(membership, {assignment.partition: offset})
        except kafka_errors.KafkaError as error:
            _require_allowed(error)
            logger.warning("the first offset of %s was not committed: %s", assignment.partition, error)
            self._fencing.note(cause_of(error))
            self.recover()
            return None
        return offset
