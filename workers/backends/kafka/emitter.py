"""Sends messages from outside the pipeline: events and replayed dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self

from kafka import KafkaProducer

from workers.backends.kafka.client import RetryingNetClient, Security, connect, end_producer, mapped
from workers.types import Headers, Message

_IN_FLIGHT = 1_000
"""How many unacknowledged messages `emit` lets run ahead."""


class KafkaEmitter:
    """An idempotent producer: no retry doubles a message or changes the order.

    After an error it must be closed and replaced: it answers every later send alike.

    Args:
        max_message_bytes: the largest message that will be sent, by its size in a batch.

    Raises:
        Unavailable: no broker answers.
        Misconfigured: settings that can't work.
    """

    def __init__(
        self,
        servers: str,
        *,
        security: Security | None = None,
        timeout_s: float = 30.0,
        max_message_bytes: int = 1 << 20,
    ) -> None:
        self._timeout_s = timeout_s
        self._waiting: deque[Any] = deque()
        self._producer: Any = connect(
            KafkaProducer,
            servers,
            security or {},
            timeout_s=min(timeout_s, 10.0),
            kafka_client=RetryingNetClient,
            linger_ms=5,
            max_request_size=max_message_bytes,
            request_timeout_ms=int(timeout_s * 500),
            delivery_timeout_ms=int(timeout_s * 1000),
            max_block_ms=int(timeout_s * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> None:
        """Queue one message; `flush` raises its error. Waits while too many are unacknowledged.

        Args:
            partition: its number; None: the key decides.

        Raises:
            Unavailable: this or an earlier message was not taken.
            Misconfigured: the topic is not there or not allowed.
        """
        with mapped(f"sending to {topic}"):
            self._waiting.append(self._producer.send(topic, value, key, list(headers), partition))
            while len(self._waiting) > _IN_FLIGHT:
                self._waiting.popleft().get(timeout=self._timeout_s)

    def flush(self) -> None:
        """Wait until every message is acknowledged.

        Raises Unavailable, Misconfigured: at least one message was not acknowledged; the others stay.
        """
        # Not by the producer's flush: it takes a batch that was split, too large for its topic, for a failure.
        with mapped("sending"):
            while self._waiting:
                self._waiting.popleft().get(timeout=self._timeout_s)

    def emit(self, messages: Iterable[Message], progress: Callable[[int], None] | None = None) -> int:
        """Send all messages, wait for their acknowledgement, and return their number."""
        sent = 0
        for message in messages:
            self.send(message.topic, message.key, message.value, message.headers, message.partition)
            sent += 1
            if progress is not None and sent % 100 == 0:
                progress(sent - len(self._waiting))
        self.flush()
        if progress is not None:
            progress(sent)
        return sent

    def close(self) -> None:
        """Stop at once; unflushed messages may be lost."""
        end_producer(self._producer, within_s=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
