"""How KEDA turns a kafka trigger and a group's offsets into a number of workers: its rules in our own words.

After `pkg/scalers/kafka_scaler.go` of KEDA 2.18 to 2.20 (validation, lag, even distribution), and after Kubernetes'
autoscaler for a metric with an average as its target. What our files don't use is refused here, so that a
change that uses it looks it up first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

OLDEST = (2, 18)
"""The first release that knows ensureEvenDistributionOfPartitions; an older one passes over it without a word."""

Partition: TypeAlias = tuple[str, int]

_FLAGS = ("allowIdleConsumers", "excludePersistentLag", "ensureEvenDistributionOfPartitions")
_TEXTS = (
    *("bootstrapServers", "consumerGroup", "topic", "lagThreshold", "offsetResetPolicy", "version", "tls", "sasl"),
    *("saslTokenProvider", "awsRegion"),
)
_PASSWORDS = ("plaintext", "scram_sha256", "scram_sha512")
_TOLERANCE = 0.1


class Refused(Exception):
    """KEDA puts the ScaledObject out of order, with this reason."""


@dataclass(frozen=True)
class Trigger:
    """A trigger as KEDA has read and checked it."""

    bootstrap_servers: str
    group: str
    topic: str
    lag_threshold: int
    from_earliest: bool
    flags: Mapping[str, bool]


def parse(metadata: Mapping[str, str], environment: Mapping[str, str], login: Mapping[str, str]) -> Trigger:
    """Read a trigger.

    Args:
        metadata: as rendered; `…FromEnv` names a variable of `environment`.
        environment: of the container that is scaled.
        login: what the TriggerAuthentication gives, by parameter.

    Raises:
        Refused: KEDA would not take it.
    """
    values = {name: value for name, value in metadata.items() if not name.endswith("FromEnv")}
    for name, variable in metadata.items():
        if name.endswith("FromEnv"):
            values[name.removesuffix("FromEnv")] = environment.get(variable, "")
    if unknown := values.keys() - {*_FLAGS, *_TEXTS}:
        raise Refused(f"not looked up yet: {unknown}")
    flags = {name: _flag(name, values.get(name, "false")) for name in _FLAGS}
    topic = values.get("topic", "")
    _check_combination(flags, topic)
    _check_login(values, login)
    return Trigger(
        _needed(values, "bootstrapServers"),
        _needed(values, "consumerGroup"),
        topic,
        _positive(values.get("lagThreshold", "10")),
        _among(values.get("offsetResetPolicy", "latest"), ("earliest", "latest")) == "earliest",
        flags,
    )


def _check_combination(flags: Mapping[str, bool], topic: str) -> None:
    if flags["ensureEvenDistributionOfPartitions"] and not topic:
        raise Refused("ensureEvenDistributionOfPartitions needs a topic")
    if "," in topic:
        raise Refused(f"Kafka knows no topic {topic!r}: a trigger has one, or none for all topics of the group")


def _check_login(values: Mapping[str, str], login: Mapping[str, str]) -> None:
    _among(values.get("tls", "disable"), ("enable", "disable"))
    if values.get("tls") == "enable" and ("cert" in login) != ("key" in login):
        raise Refused("a certificate needs its key, and a key its certificate")
    sasl = _among(values.get("sasl", "none"), ("none", *_PASSWORDS, "oauthbearer"))
    if sasl == "oauthbearer" and values.get("saslTokenProvider") == "aws_msk_iam":
        if values.get("tls") != "enable":
            raise Refused("AWS MSK needs TLS")
        needed = []
        _needed(values, "awsRegion")
    else:
        needed = ["oauthTokenEndpointUri"] if sasl == "oauthbearer" else []
        needed += ["username", "password"] if sasl != "none" else []
    for name in needed:
        if not login.get(name):
            raise Refused(f"no {name} given")


def _needed(values: Mapping[str, str], name: str) -> str:
    if not values.get(name):
        raise Refused(f"{name} is missing")
    return values[name]


def _flag(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise Refused(f"{name} is true or false, not {value!r}")
    return value == "true"


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise Refused(f"lagThreshold must be positive, not {value!r}")
    return int(value)


def _among(value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise Refused(f"{value!r} is none of {allowed}")
    return value


@dataclass
class Group:
    """What the brokers tell: the offset after the last record, and the one that the group has committed, or None."""

    ends: dict[Partition, int]
    committed: dict[Partition, int | None]


@dataclass
class Scaler:
    """One trigger's scaler. KEDA's own poll and Kubernetes' autoscaler both ask the same one, so that it remembers
    between any two calls, whichever client made them."""

    trigger: Trigger
    _seen: dict[Partition, int] = field(default_factory=dict)

    def metric(self, group: Group) -> int:
        """The lag that the autoscaler is told."""
        counted = [each for each in group.ends if self._counts(each, group)]
        lags = [self._lag(each, group) for each in counted]
        total, threshold = sum(lags), self.trigger.lag_threshold
        flags = self.trigger.flags
        if flags["ensureEvenDistributionOfPartitions"]:
            total = threshold * _even_share(total, threshold, len(counted))
        if not flags["allowIdleConsumers"] and total // threshold > len(counted):
            total = len(counted) * threshold
        return total

    def _counts(self, partition: Partition, group: Group) -> bool:
        """With a topic its partitions count, else those of every topic on which the group has committed."""
        topic = partition[0]
        if self.trigger.topic:
            return topic == self.trigger.topic
        return any(at is not None for (name, _), at in group.committed.items() if name == topic)

    def _lag(self, partition: Partition, group: Group) -> int:
        at, end = group.committed[partition], group.ends[partition]
        if at is None:
            return end if self.trigger.from_earliest else 1
        if self.trigger.flags["excludePersistentLag"]:
            before = self._seen.get(partition)
            self._seen[partition] = at
            if before == at:
                return 0
        return end - at


def _even_share(total: int, threshold: int, partitions: int) -> int:
    """The fewest workers that share the partitions evenly and have at most `threshold` each."""
    even = [number for number in range(1, partitions + 1) if partitions % number == 0]
    return next((number for number in even if number * threshold >= total), partitions)


@dataclass
class Autoscaler:
    """Kubernetes' own part: the metric divided by its target, within the bounds, and nothing for a tenth more or less.

    The policies of `behavior` only make a change slower; this is where it would end.
    """

    scaler: Scaler
    least: int
    most: int

    def wanted(self, group: Group, workers: int) -> int:
        metric, threshold = self.scaler.metric(group), self.scaler.trigger.lag_threshold
        if abs(metric / (threshold * workers) - 1) <= _TOLERANCE:
            return workers
        return max(self.least, min(self.most, math.ceil(metric / threshold)))
