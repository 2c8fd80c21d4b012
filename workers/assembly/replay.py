"""Dead letters of the topic: reads, chooses and restores them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from schemas.dead_letter import DeadLetter, Failure, read_dead_letter_headers, replay
from workers.assembly.clients import security, servers
from workers.assembly.topic_reading import Foreign
from workers.backends.kafka import tail
from workers.errors import Misconfigured
from workers.settings import Settings
from workers.types import Message, ReadRecord

_REPLAY_BYTES = 1024**3
"""The most that one replay holds in memory."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A dead letter of the topic with its headers read.

    Args:
        meant: which of the records that it stands for, counted from 0.
    """

    record: ReadRecord
    told: DeadLetter
    meant: Sequence[int] = field(default=(0,), compare=False)

    @property
    def causes(self) -> tuple[str, ...]:
        """Each reason with its failed result, once: "annotate-failed (embedding)"."""
        named = (f"{one.reason} ({one.want})" if one.want else one.reason for one in self.told.failures)
        return tuple(dict.fromkeys(named))

    @property
    def keys(self) -> list[str]:
        return [(key or b"").decode("utf-8", "replace") for key in self.told.keys_or(self.record.key)]

    @property
    def key(self) -> str:
        return (self.record.key or b"").decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen dead letters; all given conditions must hold.

    Args:
        reasons, wants: of one of its failures.
        since_ms, until_ms: of the dead letter, in ms since 1970.
    """

    reasons: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    key: str | None = None

    def of(self, dead_letter: DeadLetterRecord) -> DeadLetterRecord | None:
        """The dead letter with its chosen records; None if it has none."""
        at = dead_letter.record.timestamp_ms
        holds = (
            any(self._names(failure) for failure in dead_letter.told.failures)
            and (self.since_ms is None or at >= self.since_ms)
            and (self.until_ms is None or at < self.until_ms)
        )
        keys = dead_letter.keys if holds else []
        meant = [number for number, key in enumerate(keys) if self.key is None or fnmatchcase(key, self.key)]
        return replace(dead_letter, meant=meant) if meant else None

    def _names(self, failure: Failure) -> bool:
        return (not self.reasons or failure.reason in self.reasons) and (not self.wants or failure.want in self.wants)


def read_letters(settings: Settings, choice: Choice, foreign: Foreign) -> Iterator[DeadLetterRecord]:
    """Read the chosen dead letters, in order by partition; counts foreign records."""
    topics = [settings.dead_letter_topic]
    with tail(servers(settings), topics, start="beginning", follow=False, security=security(settings)) as records:
        for record in records:
            try:
                dead_letter = DeadLetterRecord(record, read_dead_letter_headers(record.headers))
            except ValueError as error:
                foreign.note(record, error)
                continue
            if chosen := choice.of(dead_letter):
                yield chosen


def originals(dead_letter: DeadLetterRecord) -> list[Message]:
    """The chosen original records, with the header that names what failed.

    Nulls come back as nulls, except header values, which no client can send, and a key beside a null value: those stay
    empty.
    """
    record = dead_letter.record
    found = replay(record.key, record.value, record.headers)
    headers = tuple((name, content or b"") for name, content in found[0][2])
    chosen = (found[number][:2] for number in dead_letter.meant)
    return [
        Message(dead_letter.told.topic, b"" if key is None and value is None else key, value, headers)
        for key, value in chosen
    ]


def up_to(
    limit: int | None, dead_letters: Iterator[DeadLetterRecord], most_bytes: int = _REPLAY_BYTES
) -> list[DeadLetterRecord]:
    """The first dead letters, for `limit` records in all.

    Raises Misconfigured: they are more than should be held in memory.
    """
    held: list[DeadLetterRecord] = []
    size, left = 0, limit
    for dead_letter in dead_letters:
        held.append(dead_letter if left is None else replace(dead_letter, meant=dead_letter.meant[:left]))
        size += dead_letter.record.size
        if size > most_bytes:
            raise Misconfigured(
                f"the first {len(held):,} of these dead letters have more than {most_bytes:,} bytes: choose fewer at a "
                "time with --since and --until, --reason, --key or --limit; nothing was sent"
            )
        if left is not None and (left := left - len(dead_letter.meant)) <= 0:
            break
    return held


def find_letter(settings: Settings, topic: str, partition: int, offset: int) -> DeadLetterRecord:
    """The dead letter at these coordinates, its own or its record's."""
    for dead_letter in read_letters(settings, Choice(), Foreign()):
        told, at = dead_letter.told, dead_letter.record
        if topic == settings.dead_letter_topic:
            found = (at.partition, at.offset) == (partition, offset)
        else:
            found = (told.topic, told.partition) == (topic, partition) and told.offset <= offset <= told.last_offset
        if found:
            return dead_letter
    raise Misconfigured(f"there is no dead letter {topic}:{partition}:{offset} in {settings.dead_letter_topic}")
