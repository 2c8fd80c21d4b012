"""A consumer group seen from outside: members, committed offsets and lag."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from kafka import errors as kafka_errors
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import TopicPartition

from workers.backends.kafka.client import Security, admin, mapped, passing, require_among
from workers.types import Partition

Answer = TypeVar("Answer")

_PATIENCE_S = 10.0


class GroupMember(NamedTuple):
    """A member of a group: its id, its address, and the partitions that the group gave it."""

    id: str
    host: str
    partitions: tuple[Partition, ...]


class Reach(NamedTuple):
    """A partition's first, committed (or None) and end offset.

    The end is behind open transactions.
    """

    first: int
    committed: int | None
    end: int


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group at one moment. `state` in Kafka's words: stable, empty, dead (there is no such group), …"""

    state: str
    members: tuple[GroupMember, ...]
    partitions: Mapping[Partition, Reach]


class GroupWatch:
    """Reads the state of one group and its topics; made by `group_watch`."""

    def __init__(self, client: Any, group: str, topics: Sequence[str]) -> None:
        self._client = client
        self._group = group
        self._topics = topics

    def look(self) -> GroupState:
        """
        Raises:
            Misconfigured: a topic does not exist, or we may not ask.
            Unavailable: the cluster does not answer.
        """
        doing = f"asking about the group {self._group!r}"
        with mapped(doing):
            return _patiently(self._look)

    def _look(self) -> GroupState:
        state, members = self._members()
        return GroupState(state, members, self._reaches())

    def _members(self) -> tuple[str, tuple[GroupMember, ...]]:
        told = self._client.describe_groups([self._group])[self._group]
        members = (
            GroupMember(each["member_id"], each["client_host"].lstrip("/"), tuple(_assigned(each["member_assignment"])))
            for each in told["members"]
        )
        return str(told["group_state"] or "unknown").lower(), tuple(sorted(members))

    def _reaches(self) -> dict[Partition, Reach]:
        client, places = self._client, _partitions(self._client, self._topics)
        firsts = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
        ends = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        committed = client.list_group_offsets({self._group: places})[self._group]
        found = {}
        for place in places:
            known = committed[place].offset if place in committed else -1
            found[Partition(*place)] = Reach(firsts[place].offset, known if known >= 0 else None, ends[place].offset)
        return found


@contextmanager
def group_watch(
    servers: str, group: str, topics: Sequence[str], *, security: Security | None = None
) -> Iterator[GroupWatch]:
    """Context with one client for many looks at a group."""
    with admin(servers, security or {}) as client:
        yield GroupWatch(client, group, topics)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Retry while a leader or coordinator is being elected."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except kafka_errors.KafkaError as error:
            if not passing(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _partitions(client: Any, topics: Sequence[str]) -> list[TopicPartition]:
    """Raises Misconfigured: a topic does not exist."""
    require_among(client.list_topics(), topics)
    return sorted(
        TopicPartition(told["name"], partition["partition_index"])
        for told in client.describe_topics(list(dict.fromkeys(topics)))
        for partition in told["partitions"]
    )


def _assigned(assignment: Any) -> list[Partition]:
    """A member's partitions; none for a new member or an unknown assignment."""
    if not isinstance(assignment, Mapping):
        return []
    topics = assignment["assigned_partitions"]
    return sorted(Partition(topic["topic"], number) for topic in topics for number in topic["partitions"])
