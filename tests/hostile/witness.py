"""An independent reader that follows a worker's outputs, and knows when each record was answered."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, Message, TopicPartition

from schemas.dead_letter import read_dead_letter_headers
from schemas.enriched_image import Retraction, Skip, read_output
from tests.support.worker_process import Site

Place = tuple[int, int]
"""(partition, offset) in the input topic."""


@dataclass
class Answer:
    """The outcomes of one record, and when the last of them could be read (monotonic clock)."""

    kinds: list[str] = field(default_factory=list)
    indexes: Counter[int] = field(default_factory=Counter)
    at: float = 0.0


FORGED = "forged"
"""A header of outcomes that no worker made, which witnesses nothing."""


class Witness:
    """Reads a site's output topics (read_committed) in a thread, inside the `with`; no record may have a secret."""

    def __init__(self, site: Site, secrets: tuple[bytes, ...]) -> None:
        self._site = site
        self._secrets = secrets
        self._lock = threading.Lock()
        self._answers: dict[Place, Answer] = {}
        self.leaks: list[str] = []
        self.errors: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def answer(self, place: Place) -> Answer | None:
        with self._lock:
            return self._answers.get(place)

    def unanswered(self, places: set[Place]) -> set[Place]:
        with self._lock:
            return places - self._answers.keys()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(20)

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._site.stack.kafka.servers,
                "group.id": f"witness-{self._site.name}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            topics = {self._site.enriched: 3, self._site.dead: 1, self._site.skipped: 1}
            consumer.assign([TopicPartition(t, number, 0) for t, count in topics.items() for number in range(count)])
            while not self._over.is_set():
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    try:
                        self._note(message)
                    except ValueError as error:
                        self.errors.append(f"{message.topic()}:{message.offset()}: {error}")
        finally:
            consumer.close()

    def _note(self, message: Message) -> None:
        headers = tuple((str(name), _bytes(value)) for name, value in list(message.headers() or []))
        if FORGED in dict(headers):
            return
        value = _bytes(message.value()) or b""
        if message.topic() == self._site.dead:
            dead_letter = read_dead_letter_headers(headers)
            own = b"".join(content or b"" for name, content in headers if name.startswith("tagstream-"))
            for offset in range(dead_letter.offset, (dead_letter.last_offset or dead_letter.offset) + 1):
                for failure in dead_letter.failures:
                    self._keep((dead_letter.partition, offset), failure.index, failure.reason)
        else:
            output = read_output(value)
            own = value
            kind = (
                "skip" if isinstance(output, Skip) else "retraction" if isinstance(output, Retraction) else "enriched"
            )
            event = output.event
            self._keep((event.partition, event.offset), event.index, kind)
        self.leaks += [f"{message.topic()}:{message.offset()}" for secret in self._secrets if secret in own]

    def _keep(self, place: Place, index: int, kind: str) -> None:
        with self._lock:
            answer = self._answers.setdefault(place, Answer())
            answer.kinds.append(kind)
            answer.indexes[index] += 1
            answer.at = time.monotonic()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
