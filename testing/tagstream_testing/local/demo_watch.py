"""Reads the outcomes of the demo's events as a downstream consumer would.

Committed records only.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from schemas.dead_letter import DeadLetter, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from workers.backends.kafka import tail
from workers.types import OutcomeKind, ReadRecord

Answer: TypeAlias = EnrichedImage | Retraction | Skip | DeadLetter


@dataclass(slots=True)
class Row:
    """One event and its answer."""

    subject: str
    image: Path | None
    answer: Answer | None = None

    @property
    def key(self) -> str:
        return self.subject.partition("/")[2]

    @property
    def work_ms(self) -> float | None:
        """Milliseconds that the worker worked on it: a burst waits for its turn much longer."""
        return spent_on(self.answer) if isinstance(self.answer, EnrichedImage) else None

    @property
    def outcome(self) -> str:
        """The kind of its outcome; or open."""
        return "open" if self.answer is None else _OUTCOMES[type(self.answer)]

    @property
    def remembered(self) -> str | None:
        """The cache's saving: "fetch and model", "model", or nothing."""
        if not isinstance(self.answer, EnrichedImage) or self.answer.cache.tags != "hit":
            return None
        return "fetch and model" if self.answer.cache.source == "hit" else "model"


def spent_on(image: EnrichedImage) -> float:
    """Milliseconds of the image's stages, without the waits between them."""
    return sum(took for stage, took in image.timings_ms.items() if not stage.startswith(WAITS))


WAITS = "wait-"
"""Prefix of the names of waits."""
_OUTCOMES: dict[type[Answer], OutcomeKind] = {
    EnrichedImage: "enriched",
    Retraction: "retraction",
    Skip: "skip",
    DeadLetter: "dead-letter",
}


class Watch:
    """Reads the output topics and gives each answer to its event.

    Events of one object are answered in order, so the oldest open row of a subject is the one.
    """

    def __init__(self, servers: str, output: str, dead_letters: str, skipped: str) -> None:
        self._tail = tail(servers, [output, dead_letters, skipped], start="beginning")
        self._dead_letters = dead_letters
        self._open: dict[str, deque[Row]] = defaultdict(deque)
        self.coordinates: list[tuple[str, int, int]] = []
        """(topic, partition, offset) of the event of every answer, in the order of arrival; with repetitions if any."""

    def expect(self, row: Row) -> None:
        self._open[row.subject].append(row)

    @property
    def waiting(self) -> int:
        return sum(len(rows) for rows in self._open.values())

    def poll(self, timeout_s: float) -> Iterator[Row]:
        """The rows that were answered meanwhile."""
        for record in self._tail.poll(timeout_s):
            row = self._match(record)
            if row is not None:
                yield row

    def close(self) -> None:
        self._tail.close()

    def _match(self, record: ReadRecord) -> Row | None:
        answer: Answer
        if record.topic == self._dead_letters:
            answer = read_dead_letter_headers(record.headers)
            subject = (record.key or b"").decode("utf-8", "replace")
            self.coordinates.append((answer.topic, answer.partition, answer.offset))
        elif record.value is None:  # it follows a retraction
            return None
        else:
            answer = read_output(record.value)
            subject = answer.subject or ""
            self.coordinates.append((answer.event.topic, answer.event.partition, answer.event.offset))
        if not self._open[subject]:
            return None
        row = self._open[subject].popleft()
        row.answer = answer
        return row
