"""One member of a consumer group: its partitions, and its place in the group.

Three threads come here. The poll thread owns the consumer. kafka-python's own I/O thread runs the rebalance callbacks,
always while the poll thread waits inside `poll`; they only mark. The publish thread asks for the membership.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.structs import MemberState

from workers import metrics
from workers.backends.kafka import internals
from workers.types import Assignment, Membership, Partition

logger = logging.getLogger(__name__)

_HEARTBEAT_STEP_S = 0.005

TELL_S = 5.0
"""Seconds between two lines of the log about a broker that keeps failing."""

_ANYWHERE = 0
"""Placeholder position of a partition until `start`. Without one, kafka-python fetches the committed offset and blocks
all partitions while a transaction is pending on this one."""


class GroupMembership:
    """The assignments of one group member, from callback to end.

    Args:
        forget: called with each partition that left us. Any thread.
    """

    def __init__(
        self, consumer: Any, group: str, topics: Sequence[str], forget: Callable[[TopicPartition], None]
    ) -> None:
        self._consumer = consumer
        self._group = group
        self._forget = forget
        self._lock = threading.Lock()
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._fresh: list[Assignment] = []
        self._open: set[Assignment] = set()
        self._paused: set[Assignment] = set()
        self._led_at = self._counted_at = time.monotonic()
        self._told_leaderless = False
        internals.pace_coordinator_lookups(consumer)
        consumer.subscribe(topics=list(topics), listener=_Callbacks(self))

    def membership(self) -> Membership:
        known = self._consumer.group_metadata()
        return Membership(known.generation_id, known.member_id)

    def joined(self) -> bool:
        """Whether a join is complete."""
        return _is_member(self._consumer.group_metadata())

    def positions(self) -> dict[TopicPartition, tuple[int, int]]:
        """Position and last known end of each partition, if both are known. Any thread."""
        with self._lock:
            return internals.positions(self._consumer, self._assignments)

    # On the client's I/O thread, or on the poll thread while the I/O thread rests

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """End the assignments of partitions that left us."""
        with self._lock:
            for partition in partitions:
                if (assignment := self._assignments.pop(partition, None)) is not None:
                    assignment.end()
                    self._forget(partition)

    def take(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin assignments of our partitions, which then wait for `start`."""
        member_id = self.membership().member_id
        partitions = sorted(partitions)
        self.drop(partitions)
        self._consumer.pause(*partitions)
        with self._lock:
            for partition in partitions:
                self._consumer.seek(partition, _ANYWHERE)
                assignment = Assignment(Partition(partition.topic, partition.partition), member_id)
                self._assignments[partition] = assignment
                self._fresh.append(assignment)

    # On the poll thread

    def open(self, assignment: Assignment) -> bool:
        """Whether the assignment is still ours; then its records may be given."""
        with self._lock:
            if not assignment.current or self._assignments.get(TopicPartition(*assignment.partition)) is not assignment:
                return False
            self._open.add(assignment)
            return True

    def opened(self, partition: TopicPartition) -> Assignment | None:
        """The assignment of records from this partition; None: drop the records."""
        assignment = self._assignments.get(partition)
        return assignment if assignment in self._open else None

    def begin(self, assignment: Assignment, offset: int) -> None:
        """Read from here on, unless it is paused."""
        partition = TopicPartition(*assignment.partition)
        self._consumer.seek(partition, offset)
        if assignment not in self._paused:
            self._consumer.resume(partition)

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition, assignment in self._held(partitions):
            self._paused.add(assignment)
            self._consumer.pause(partition)

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition, assignment in self._held(partitions):
            self._paused.discard(assignment)
            if assignment in self._open:
                self._consumer.resume(partition)

    def started(self) -> tuple[Assignment, ...]:
        """The assignments that began since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
            self._open = {assignment for assignment in self._open if assignment.current}
            self._paused = {assignment for assignment in self._paused if assignment.current}
        return tuple(assignment for assignment in fresh if assignment.current)

    def close(self) -> None:
        self.drop(list(self._assignments))

    def await_answers(self, timeout_s: float) -> float:
        """Let a pending join or heartbeat be answered; returns the time left.

        While a heartbeat is overdue, kafka-python 3.0.12 polls without waiting (17 times in 20 ms), and each poll
        leaves 4 KB with the fetch under way: 30 MB within the request timeout, in no budget. The steps are short
        because any heartbeat is due for a moment, and records would wait.
        """
        internals.finish_pending_join(self._consumer)
        left_s, until = timeout_s, time.monotonic() + timeout_s
        while left_s > 0 and internals.heartbeat_is_overdue(self._consumer):
            time.sleep(min(_HEARTBEAT_STEP_S, left_s))
            left_s = max(0.0, until - time.monotonic())
        return left_s

    def first_asked(self) -> None:
        """Count the time without a coordinator from now."""
        self._led_at = time.monotonic()

    def tell_of_leader(self) -> None:
        """Log once that the group has no coordinator, and once its return.

        Each `TELL_S` counts as a retry: the client's polls raise nothing then.
        """
        now = time.monotonic()
        if internals.has_coordinator(self._consumer):
            if self._told_leaderless:
                logger.info("the group %s has a coordinator again", self._group)
            self._led_at, self._told_leaderless = now, False
        elif now - max(self._led_at, self._counted_at) >= TELL_S:
            metrics.RETRIES.add(dependency="kafka")  # the client keeps asking
            self._counted_at = now
            if not self._told_leaderless:
                self._told_leaderless = True
                logger.warning("no coordinator of the group %s answers: nothing is read until one does", self._group)

    def renew_ended(self) -> None:
        """Renew assignments that another member id or the publish thread ended.

        A member that froze beyond its session can return under a new id with the same partitions and no callback,
        although others worked on them. An assignment also ends if another member committed an offset of its partition.
        """
        known = self._consumer.group_metadata()
        # Before the join is complete another member may still own our partitions and commit for them.
        if not _is_member(known):
            return
        held = list(self._assignments.items())
        ended = [tp for tp, assignment in held if assignment.member_id != known.member_id or not assignment.current]
        if ended:
            again = ", ".join(f"{tp.topic}:{tp.partition}" for tp in ended)
            logger.warning("the member id or a committed offset has changed; starting over with %s", again)
            # A join without callbacks can have taken some away, which the client would not let us touch.
            assigned = self._consumer.assignment()
            self.drop(tp for tp in ended if tp not in assigned)
            self.take(tp for tp in ended if tp in assigned)

    def _held(self, partitions: Sequence[Partition]) -> list[tuple[TopicPartition, Assignment]]:
        with self._lock:
            asked = [TopicPartition(*partition) for partition in partitions]
            return [(partition, self._assignments[partition]) for partition in asked if partition in self._assignments]


def _is_member(known: Any) -> bool:
    """Whether a join is complete, by kafka-python's metadata of the group."""
    return bool(known.member_id) and known.generation_id >= 0 and known.state == MemberState.STABLE


class _Callbacks(ConsumerRebalanceListener):  # type: ignore[misc]
    """Rebalance callbacks on the client's I/O thread; they must not wait."""

    def __init__(self, member: GroupMembership) -> None:
        self._member = member

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._member.take(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._member.drop(revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._member.drop(lost)
