"""The corrections topic, read whole and then followed, in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from schemas.correction import Corrections, Word
from workers.backends.kafka.client import Security
from workers.backends.kafka.reader import Tail, tail
from workers.errors import Misconfigured, Unavailable
from workers.types import Partition, ReadRecord

logger = logging.getLogger(__name__)

_LOOK_S = 60.0
"""How often it is asked whether the topic has more partitions."""


class KafkaCorrections:
    """`ports.CorrectionLog` on a topic. Reading belongs to one thread at a time; any may ask.

    Args:
        max_bytes: most memory for corrections. More ends the worker: forgetting one would overwrite a person's tags.
    """

    def __init__(
        self, servers: str, topic: str, *, max_bytes: int, security: Security | None = None, people: bool = False
    ) -> None:
        self._servers = servers
        self._topic = topic
        self._max_bytes = max_bytes
        self._security = security
        self._said = Corrections(people=people)
        self._reading: Tail | None = None
        self._positions: dict[Partition, int] = {}
        self._looked_at = 0.0
        self._away = False

    def catch_up(self, stopping: Callable[[], bool]) -> None:
        while not stopping():
            try:
                with self._open(follow=False) as reading:
                    while not stopping() and not reading.at_end():
                        self._take(reading, 0.2)
                self._log_return()
                return
            except Unavailable as error:
                self._log_absence(error)
                time.sleep(1.0)

    def follow(self, timeout_s: float) -> None:
        try:
            if self._reading is None:
                self._reading, self._looked_at = self._open(follow=True), time.monotonic()
            self._take(self._reading, timeout_s)
            self._log_return()
            if time.monotonic() - self._looked_at > _LOOK_S:
                self._looked_at = time.monotonic()
                if len(self._reading.numbers(self._topic)) > len(self._positions):
                    self._drop()  # the next call opens it with all its partitions
        except Unavailable as error:
            self._log_absence(error)
            self._drop()
            time.sleep(timeout_s)

    def on(self, subject: str, sha256: str, etag: str = "", since: str | None = None) -> Word | None:
        return self._said.on(subject, sha256, etag, since)

    def close(self) -> None:
        self._drop()

    def _open(self, *, follow: bool) -> Tail:
        return tail(
            self._servers, [self._topic], start="beginning", at=self._positions, follow=follow, security=self._security
        )

    def _take(self, reading: Tail, timeout_s: float) -> None:
        for record in reading.poll(timeout_s):
            self._take_one(record)
        self._positions = reading.positions()
        if self._said.bytes > self._max_bytes:
            raise Misconfigured(
                f"the corrections of {self._topic} need more than {self._max_bytes:,} bytes of memory, "
                "an eighth of TAGSTREAM_MEMORY. Raise that setting."
            )

    def _take_one(self, record: ReadRecord) -> None:
        try:
            self._said.take(record.key, record.value)
        except ValueError as error:
            logger.warning(
                "%s:%d:%d is an invalid correction, ignored: %s", record.topic, record.partition, record.offset, error
            )

    def _drop(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()

    def _log_absence(self, error: Unavailable) -> None:
        if not self._away:
            logger.warning("the corrections of %s can't be read; trying again: %s", self._topic, error)
        self._away = True

    def _log_return(self) -> None:
        if self._away:
            logger.info("the corrections of %s are read again", self._topic)
        self._away = False
