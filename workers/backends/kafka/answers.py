"""Patches kafka-python 3.0.12 so that a broken answer is neither believed nor printed nor waited for.

Every answer must end where its fields do. One that does not, or can't be read at all, ends its connection at once, as
if the broker had hung up: whatever was asked on it is asked again. By itself the client stops reading the connection
and goes on waiting for it because of some, and ends a producer for good because of others.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any

from kafka import errors as kafka_errors
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.schemas.fields.struct import StructField

NONSENSE = (ValueError, LookupError, TypeError, AttributeError, struct.error)
"""What kafka-python raises where it can make nothing of an answer."""


class BrokenAnswer(kafka_errors.KafkaProtocolError, kafka_errors.KafkaConnectionError):  # type: ignore[misc]
    """An answer that can't be read. The first base makes kafka-python close the connection, the second ask again."""


def install() -> None:
    """Change kafka-python, for every client of this process. Called once, where clients are made."""
    StructField.compiled_decode_from = _to_the_end(StructField.compiled_decode_from)
    KafkaProtocol.receive_bytes = _hanging_up(KafkaProtocol.receive_bytes)
    # It would print a broken answer whole, with the records in it. `BrokenAnswer` says what is wrong.
    logging.getLogger("kafka.protocol.parser").setLevel(logging.CRITICAL)


def _hanging_up(receive: Callable[..., Any]) -> Callable[..., Any]:
    def received(protocol: KafkaProtocol, data: bytes) -> Any:
        try:
            return receive(protocol, data)
        except (kafka_errors.KafkaProtocolError, *NONSENSE) as error:
            raise BrokenAnswer(f"the broker's answer can't be read: {error.__context__ or error!r}") from error

    return received


def _to_the_end(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Decode a message only whole: of one that ends too early, kafka-python takes a cut text for all of it."""

    def checked(*args: Any, **kwargs: Any) -> Callable[[memoryview, int], tuple[Any, int]]:
        decode = compiled(*args, **kwargs)

        def decoded(data: memoryview, start: int) -> tuple[Any, int]:
            message, end = decode(data, start)
            if end != len(data):
                raise ValueError(f"{len(data)} bytes, of which its fields take {end}")
            return message, end

        return decoded

    return checked
