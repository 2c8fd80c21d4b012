"""Types and rules that the Kafka backend and its in-memory fake share. No client library here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

from workers.errors import Broken
from workers.types import Assignment, Membership, Message, Partition, ReadRecord, Record

Delivery: TypeAlias = Literal["exactly_once", "at_least_once"]
OffsetReset: TypeAlias = Literal["earliest", "latest"]
Isolation: TypeAlias = Literal["read_committed", "read_uncommitted"]


def refusal(membership: Membership, assignments: Iterable[Assignment]) -> str | None:
    """Why this membership may not commit offsets of these assignments; None: it may.

    The broker skips every check for a membership without a generation, and never checks that the member owns the
    partition. A new generation alone ends no assignment, so it is not compared.
    """
    if membership.generation < 0 or not membership.member_id:
        return "we are not a member of the group"
    for assignment in assignments:
        if not assignment.current:
            return f"{assignment.partition} is no longer ours"
        if assignment.member_id != membership.member_id:
            was, now = assignment.member_id, membership.member_id
            return f"{assignment.partition} was assigned to {was!r}, and we are {now!r} now"
    return None


def record_of(read: ReadRecord, assignment: Assignment) -> Record:
    """A record that was read, as the `Record` of this assignment."""
    return Record(
        assignment.partition,
        read.offset,
        read.timestamp_ms,
        read.key,
        read.value,
        read.headers,
        assignment,
        read.offsets,
        read.unreadable,
        read.append_time,
        read.stored,
        read.repeats,
    )


def out_of_range(partition: Partition, offset: int, first: int, end: int) -> str:
    """A sentence for people about a next offset that does not exist."""
    gap = (
        f"offsets {offset} to {first - 1} were deleted before they were read"
        if offset < first
        else f"the partition ends at {end}, before the offset that was committed"
    )
    return (
        f"offset {offset} of {partition} is out of range ({first} to {end}): {gap}. Set the group's offset to one"
        f" that exists (kafka-consumer-groups --reset-offsets) to accept the gap, then start again"
    )


def check_sendable(messages: Iterable[Message], max_message_bytes: Mapping[str, int]) -> None:
    """Raises ValueError: a message that no publisher can send; its maker must know better."""
    for message in messages:
        if message.topic not in max_message_bytes:
            raise ValueError(f"{message.topic!r} is not one of the output topics")
        if message.size > max_message_bytes[message.topic]:
            raise ValueError(f"a message of {message.size} bytes is too large for {message.topic!r}")
        if message.key is None and message.value is None:
            raise ValueError("a message needs a key or a value")
        if any(value is None for _, value in message.headers):
            raise ValueError("a header's value can't be null")


class FencingDetector:
    """Finds another process with our transactional id.

    The first fencing may be a transaction that the broker timed out, and a new producer is made. If that is fenced
    sooner than its transactions can time out, another process makes producers too.
    """

    def __init__(
        self, transactional_id: str, transaction_timeout_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._transactional_id = transactional_id
        self._transaction_timeout_s = transaction_timeout_s
        self._now = now
        self.fenced = False  # another producer ended the last transaction, so ours is not open
        self._initialised_after_fence: float | None = None

    def note(self, cause: str) -> None:
        """A transaction failed for this cause. Raises Broken: the id is not ours alone."""
        self.fenced = cause == "fenced"
        since = self._initialised_after_fence
        if self.fenced and since is not None and self._now() - since < self._transaction_timeout_s:
            raise Broken(
                f"another process has our transactional id {self._transactional_id!r}; give every worker its own"
                f" (TAGSTREAM_TRANSACTIONAL_ID)"
            )

    def initialised(self) -> None:
        """A new producer has taken the id."""
        self._initialised_after_fence = self._now() if self.fenced else None
        self.fenced = False
