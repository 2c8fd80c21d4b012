"""Topics and a consumer group, seen from outside."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import TopicPartition
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from workers.backends.kafka.client import Security, admin, mapped, no_such_topic, passing, require_among, translated
from workers.backends.kafka.internals import brokers_of
from workers.types import Partition

logger = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = "max.message.bytes"
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster has it.

    Args:
        replication: copies of the partition that has the fewest.
        settings: by Kafka's names, as far as wanted and readable.
        id: hex; a topic that was deleted and created again has another. Empty: the brokers are too old.
    """

    partitions: int
    replication: int
    settings: Mapping[str, str]
    id: str = ""


def ensure_topics(
    servers: str,
    topics: Mapping[str, tuple[int, Mapping[str, str]]],
    *,
    replication: int = -1,
    security: Security | None = None,
    timeout_s: float = 30.0,
) -> list[str]:
    """Make the missing topics, ready for use; returns their names.

    Existing ones are left as they are.

    Args:
        topics: for each name its partitions and its settings by Kafka's names.
        replication: copies of each partition; -1 for the broker's default.

    Raises:
        Misconfigured: the cluster refuses one of them; the others may exist now.
    """
    with admin(servers, security or {}, timeout_s=timeout_s) as client:
        known = set(client.list_topics())
        missing = {
            name: {"num_partitions": partitions, "replication_factor": replication, "configs": dict(configs)}
            for name, (partitions, configs) in topics.items()
            if name not in known
        }
        if missing:
            for answer in client.create_topics(missing, raise_errors=False)["topics"]:
                _require_made(answer)
            client.wait_for_topics(list(missing))
    return list(missing)


def _require_made(answer: Mapping[str, Any]) -> None:
    """Raise Misconfigured or Unavailable: not made. One that another client just made will do."""
    error = kafka_errors.for_code(answer["error_code"])
    if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
        raise translated(f"creating the topic {answer['name']!r}", error(answer.get("error_message") or ""))


def brokers(servers: str, *, security: Security | None = None) -> int:
    """How many brokers the cluster has now."""
    with admin(servers, security or {}) as client:
        return len(brokers_of(client))


def describe_topics(
    servers: str, settings: Mapping[str, Sequence[str]], *, security: Security | None = None
) -> dict[str, TopicState]:
    """Describe topics; missing ones are left out."""
    with admin(servers, security or {}) as client:
        known = set(client.list_topics())
        names = [topic for topic in settings if topic in known]
        found = {topic["name"]: topic for topic in client.describe_topics(names)} if names else {}
        return {
            name: TopicState(
                partitions=len(topic["partitions"]),
                replication=min((len(partition["replica_nodes"]) for partition in topic["partitions"]), default=0),
                settings=_settings(client, name, settings[name]),
                id=_id(topic),
            )
            for name, topic in found.items()
        }


def _id(topic: Mapping[str, Any]) -> str:
    told = str(topic.get("topic_id") or "").replace("-", "")
    return told if told.strip("0") else ""


def require_topics(servers: str, topics: Sequence[str], *, security: Security | None = None) -> None:
    """Ask the cluster whether these topics exist: a producer would look for a missing one until its time is over.

    Raises Misconfigured: some do not; all of them are named.
    """
    with admin(servers, security or {}) as client:
        known = client.list_topics()
    require_among(known, topics)


def max_message_bytes(
    servers: str, topics: Sequence[str], *, security: Security | None = None, connect_timeout_s: float = 30.0
) -> dict[str, int]:
    """The largest record batch that each topic takes. Raises Misconfigured: one of them does not exist."""
    with admin(servers, security or {}, timeout_s=connect_timeout_s) as client:
        require_among(client.list_topics(), topics)
        return {topic: _max_message_bytes(client, topic) for topic in topics}


def _max_message_bytes(client: Any, topic: str) -> int:
    value = _settings(client, topic, [_MAX_MESSAGE_BYTES]).get(_MAX_MESSAGE_BYTES)
    if value is None:
        logger.warning("%s of %r can't be read; taking Kafka's default", _MAX_MESSAGE_BYTES, topic)
        return _DEFAULT_MAX_MESSAGE_BYTES
    return int(value)


def _settings(client: Any, topic: str, names: Sequence[str]) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names))
    try:
        found = client.describe_configs([resource], config_filter="all")["topic"][topic]
    except (kafka_errors.AuthorizationError, KeyError):
        return {}
    return {name: str(found[name]["value"]) for name in names if name in found}


def numbers(consumer: Any, topic: str) -> list[int]:
    """The numbers of a topic's partitions. Raises Misconfigured: no such topic."""
    known = consumer.partitions_for_topic(topic)
    if not known:
        raise no_such_topic(topic)
    return sorted(known)


def partitions_of(consumer: Any, topics: Sequence[str]) -> list[TopicPartition]:
    """Raises Misconfigured: one of the topics does not exist."""
    return [TopicPartition(topic, number) for topic in topics for number in numbers(consumer, topic)]


def first_since(consumer: Any, partitions: Iterable[TopicPartition], time_ms: int) -> dict[TopicPartition, int | None]:
    """Each partition's first offset since a time (ms since 1970), or None."""
    asked = dict.fromkeys(partitions, max(0, time_ms))
    found = consumer.offsets_for_times(asked, timeout_ms=_TIMEOUT_MS)
    return {place: None if found.get(place) is None else found[place].offset for place in asked}


_PATIENCE_S = 10.0


class GroupMember(NamedTuple):
    """A member of a group: its id, its address, and the partitions that the group gave it."""

    id: str
    host: str
    partitions: tuple[Partition, ...]


class Reach(NamedTuple):
    """A partition's first, committed (or None) and end offset. The end is behind open transactions."""

    first: int
    committed: int | None
    end: int


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group at one moment. `state` in Kafka's words: stable, empty, dead (there is no such group), …"""

    state: str
    members: tuple[GroupMember, ...]
    partitions: Mapping[Partition, Reach]


@dataclass(frozen=True)
class GroupWatch:
    """Reads the state of one group and its topics; made by `group_watch`."""

    client: Any
    group: str
    topics: Sequence[str]

    def look(self) -> GroupState:
        """
        Raises:
            Misconfigured: a topic does not exist, or we may not ask.
            Unavailable: the cluster does not answer.
        """

        def is_passing(error: BaseException) -> bool:  # a leader or coordinator is being elected
            return isinstance(error, kafka_errors.KafkaError) and passing(error)

        with mapped(f"asking about the group {self.group!r}"):
            stop, wait = stop_after_delay(_PATIENCE_S), wait_fixed(0.2)
            return Retrying(retry=retry_if_exception(is_passing), stop=stop, wait=wait, reraise=True)(self._look)

    def _look(self) -> GroupState:
        state, members = self._members()
        return GroupState(state, members, self._reaches())

    def _members(self) -> tuple[str, tuple[GroupMember, ...]]:
        told = self.client.describe_groups([self.group])[self.group]
        members = (
            GroupMember(each["member_id"], each["client_host"].lstrip("/"), tuple(_assigned(each["member_assignment"])))
            for each in told["members"]
        )
        return str(told["group_state"] or "unknown").lower(), tuple(sorted(members))

    def _reaches(self) -> dict[Partition, Reach]:
        client, places = self.client, _partitions(self.client, self.topics)
        firsts = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
        ends = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        committed = client.list_group_offsets({self.group: places})[self.group]
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


def _partitions(client: Any, topics: Sequence[str]) -> list[TopicPartition]:
    """Raises Misconfigured: a topic does not exist."""
    require_among(client.list_topics(), topics)
    return sorted(
        TopicPartition(told["name"], partition["partition_index"])
        for told in client.describe_topics(list(dict.fromkeys(topics)))
        for partition in told["partitions"]
    )


def _assigned(assignment: Any) -> list[Partition]:
    if not isinstance(assignment, Mapping):
        return []
    topics = assignment["assigned_partitions"]
    return sorted(Partition(topic["topic"], number) for topic in topics for number in topic["partitions"])
