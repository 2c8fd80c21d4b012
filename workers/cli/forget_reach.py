"""Places that `tagstream forget` can't reach, and its search for leftovers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.settings import Settings

_NEVER_MS = 2**62
"""Kafka's default of max.compaction.lag.ms is 2^63-1."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """A place where something of the images is left.

    Args:
        until: when Kafka has removed it at the latest, in UTC; None: no retention ends it.
    """

    place: str
    why: str
    until: str | None = None

    def __str__(self) -> str:
        end = "no retention ends it" if self.until is None else f"gone by {self.until}"
        return f"{self.place}: {end} ({self.why})"


_OTHERS = (
    Beyond("consumers' indexes", "the retraction or the tombstone deletes there"),
    Beyond("backups and mirrors of topics, Redis and images", "delete there too, also older versions of the object"),
    Beyond("training sets and trained weights", "collect and train anew"),
)


def beyond(settings: Settings) -> list[Beyond]:
    """What is beyond reach once the command is done."""
    from workers.backends.kafka import describe_topics
    from workers.cli.clients import security, servers

    names = ("cleanup.policy", "retention.ms", "segment.ms", "delete.retention.ms", "max.compaction.lag.ms")
    topics = dict(_topics(settings))
    states = describe_topics(servers(settings), dict.fromkeys(topics, names), security=security(settings))
    found = [_of_topic(topic, topics[topic], state.settings) for topic, state in states.items()]
    return [*found, *_OTHERS]


def _topics(settings: Settings) -> Iterator[tuple[str, str]]:
    yield settings.output_topic, "output"
    for topic in settings.input_topics:
        yield topic, "input"
    yield settings.dead_letter_topic, "dead letters"
    for topic, role in ((settings.skipped_topic, "skips"), (settings.corrections_topic, "corrections")):
        if topic:
            yield topic, role


def _of_topic(topic: str, role: str, settings: Mapping[str, str]) -> Beyond:
    place, policy = f"{topic} ({role})", settings.get("cleanup.policy")
    if policy is None:
        return Beyond(place, "its settings can't be read")
    segment = int(settings.get("segment.ms", 0))
    if "compact" in policy and role == "output":
        lag = int(settings.get("max.compaction.lag.ms", _NEVER_MS))
        if lag >= _NEVER_MS:
            return Beyond(place, "compaction removes it at a time that max.compaction.lag.ms does not bound")
        # A round drops what a tombstone hides; a later one the tombstone.
        kept = int(settings.get("delete.retention.ms", 0))
        return Beyond(place, "compaction", _in(2 * (lag + segment) + kept))
    if "delete" not in policy:
        return Beyond(place, "compaction keeps each key's last record")
    retention = int(settings.get("retention.ms", -1))
    return Beyond(place, f"retention.ms={retention}", None if retention < 0 else _in(retention + segment))


def _in(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(time.time() + milliseconds / 1000, UTC)
    except (ValueError, OverflowError):
        return "a time after the year 9999"
    return moment.isoformat(timespec="minutes").replace("+00:00", "Z")
