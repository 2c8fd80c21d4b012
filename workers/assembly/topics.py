"""The topics that the settings name, compared with the advice."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.printable import counted
from workers.assembly.clients import security, servers
from workers.backends.kafka import TopicState, brokers, describe_topics, ensure_topics, require_topics
from workers.settings import Settings

REPLICATION_MAX = 3
MIN_INSYNC = "min.insync.replicas"


@dataclass(frozen=True, slots=True)
class Advice:
    """A topic's setting, and what goes wrong with another value (empty: nothing)."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic of the settings. `busy`: it has the input's load and partitions."""

    name: str
    role: str
    busy: bool
    advice: tuple[Advice, ...]

    def partitions(self, busy: int) -> int:
        return busy if self.busy else 1

    def settings(self, replication: int) -> dict[str, str]:
        """Settings under Kafka's names for a topic with so many copies."""
        safe = {MIN_INSYNC: "2"} if replication >= REPLICATION_MAX else {}
        return {advice.name: advice.value for advice in self.advice} | safe


@dataclass(frozen=True, slots=True)
class Deviation:
    """A difference from the advice: a sentence, and a command that corrects it."""

    topic: str
    says: str
    command: str


_AS_IT_COMES = Advice(
    "compression.type",
    "producer",
    "the broker opens what is compressed otherwise, without a bound, and a batch of some kB can stop it "
    "(docs/guide/deploying.md)",
)
_LATEST = Advice("cleanup.policy", "compact", "")
_ROLES: Mapping[str, tuple[bool, tuple[Advice, ...]]] = {
    "input": (True, (_AS_IT_COMES,)),
    "output": (True, (_LATEST,)),
    "dead letters": (
        False,
        (
            Advice("cleanup.policy", "delete", "compaction keeps only the last dead letter of a key"),
            Advice("retention.ms", "-1", "dead letters vanish after that time, looked at or not"),
            Advice("compression.type", "zstd", "dead letters are kept for ever, and many hold the same bytes"),
        ),
    ),
    "skipped": (False, (Advice("cleanup.policy", "delete", "compaction keeps only the last skip of an image"),)),
    "corrections": (
        False,
        (
            Advice("cleanup.policy", "delete", "compaction keeps only the last correction of an image"),
            Advice("retention.ms", "-1", "what persons said is forgotten after that time"),
        ),
    ),
}


def wanted_topics(settings: Settings) -> list[WantedTopic]:
    """Every topic that the settings name, each once."""
    named = [("input", topic) for topic in settings.topics]
    named += [
        ("output", settings.output_topic),
        ("dead letters", settings.dead_letter_topic),
        ("skipped", settings.skipped_topic),
        ("corrections", settings.corrections_topic),
    ]
    # A topic of two roles, such as one for all that comes out, has the advice of the first.
    roles = {topic: role for role, topic in reversed(named) if topic}
    return [WantedTopic(topic, role, *_ROLES[role]) for topic, role in reversed(roles.items())]


def deviations(
    wanted: Sequence[WantedTopic],
    found: Mapping[str, TopicState],
    *,
    servers: str,
    replication: int,
    partitions: int | None = None,
) -> Iterator[Deviation]:
    """Yield the differences between topics and the advice.

    Args:
        servers: "host:port,…", for the commands.
        replication: copies that each partition should have at least.
        partitions: that each input and output topic should have at least; None: any number will do.
    """
    at = f"--bootstrap-server {shlex.quote(servers)}"
    for topic in wanted:
        state = found.get(topic.name)
        if state is None:
            yield Deviation(topic.name, "does not exist", "tagstream topics create")
            continue
        few = topic.partitions(partitions or 1)
        if state.partitions < few:
            yield more_partitions(topic.name, state.partitions, few, servers=servers)
        if state.replication < replication:
            yield Deviation(
                topic.name,
                f"has {counted(state.replication, 'copy', 'copies')} of a partition and should have {replication}: "
                "what is only on a broker that is lost is lost",
                f"kafka-reassign-partitions.sh {at} --generate --broker-list IDS --topics-to-move-json-file FILE",
            )
        for advice in _advised(topic, state):
            has = state.settings.get(advice.name)
            if has is not None and has != advice.value:
                yield Deviation(
                    topic.name,
                    f"has {advice.name}={has}: {advice.why}; {advice.value} is safer",
                    f"kafka-configs.sh {at} --alter --entity-type topics --entity-name {topic.name} "
                    f"--add-config {advice.name}={advice.value}",
                )


def more_partitions(topic: str, has: int, wanted: int, *, servers: str) -> Deviation:
    """The deviation of a topic with too few partitions; arguments as above."""
    return Deviation(
        topic,
        f"has {counted(has, 'partition')} and should have {wanted}; more of them move keys to other partitions, so let "
        "the workers finish what is there first",
        f"kafka-topics.sh --bootstrap-server {shlex.quote(servers)} --alter --topic {topic} --partitions {wanted}",
    )


def _advised(topic: WantedTopic, state: TopicState) -> Iterator[Advice]:
    """Advice to check: what has a reason, and the copies of an acknowledged record."""
    yield from (advice for advice in topic.advice if advice.why)
    if state.replication >= REPLICATION_MAX and state.settings.get(MIN_INSYNC) == "1":
        yield Advice(MIN_INSYNC, "2", "a record is acknowledged while a single broker has it, and lost with that")


def state_of(settings: Settings, topic: str) -> TopicState:
    """The topic as the cluster has it. Raises Misconfigured: it does not exist."""
    address, login = servers(settings), security(settings)
    require_topics(address, [topic], security=login)
    return describe_topics(address, {topic: ["cleanup.policy"]}, security=login)[topic]


def found_topics(settings: Settings, wanted: Sequence[WantedTopic]) -> dict[str, TopicState]:
    """Existing ones of these topics, with the settings that the advice names."""
    named = {topic.name: [*(advice.name for advice in topic.advice), MIN_INSYNC] for topic in wanted}
    return describe_topics(servers(settings), named, security=security(settings))


def make_topics(
    settings: Settings, wanted: Sequence[WantedTopic], partitions: int, replication: int | None
) -> Sequence[str]:
    """Make the missing ones of these topics; returns their names.

    Args:
        partitions: of the topics with the input's load.
        replication: None: as advised.
    """
    copies = replication or advised_replication(settings)
    return ensure_topics(
        servers(settings),
        {topic.name: (topic.partitions(partitions), topic.settings(copies)) for topic in wanted},
        replication=copies,
        security=security(settings),
        timeout_s=10,
    )


def advised_replication(settings: Settings) -> int:
    """Copies of a partition: three, or one on each broker."""
    return min(REPLICATION_MAX, brokers(servers(settings), security=security(settings)))
