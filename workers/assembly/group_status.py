"""Looks at the consumer group and at the topic of dead letters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from workers.assembly.clients import security, servers
from workers.backends.kafka import Extent, GroupState, GroupWatch, Reach, extents, first_times
from workers.errors import TagstreamError, Unavailable
from workers.lanes import lane_of
from workers.settings import Settings
from workers.types import Lane, Partition

LOOKS = 16
"""Looks over which the pace is taken where there are many."""


@dataclass(frozen=True, slots=True)
class Look:
    """The group at one moment.

    Args:
        ages: of each partition's first waiting record, in seconds.
        letters: what each partition of the dead letters' topic holds.
        tokens: for captions on this UTC day; None: they have no limit, or are not known.
    """

    at: float
    group: GroupState
    starts: Mapping[Partition, int]
    ages: Mapping[Partition, float]
    letters: Mapping[Partition, Extent]
    tokens: int | None = None

    def lag(self, partition: Partition) -> int:
        return max(0, self.group.partitions[partition].end - self.starts[partition])

    @property
    def total(self) -> int:
        return sum(map(self.lag, self.group.partitions))

    def of_lane(self, lane: Lane, background: Collection[str]) -> Look:
        """The look at the partitions of a lane alone; `background`: the topics of that lane."""
        whole = self.group.partitions.items()
        kept = {place: reach for place, reach in whole if lane_of(place, background) == lane}
        ages = {place: age for place, age in self.ages.items() if place in kept}
        return replace(self, group=replace(self.group, partitions=kept), ages=ages)

    @property
    def oldest(self) -> float | None:
        return max(self.ages.values(), default=None)

    @property
    def letters_at_most(self) -> int:
        """Offsets in the topic of dead letters: each transaction has one more than its records."""
        return sum(each.end - each.begin for each in self.letters.values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last look, and rates in offsets a second.

    Args:
        failing: in the topic of dead letters.
        lanes: the same of each lane's partitions.
    """

    look: Look
    rate: float
    arriving: float
    failing: float
    lanes: Mapping[Lane, Snapshot] = field(default_factory=dict)

    @property
    def eta_s(self) -> float | None:
        """Seconds until nothing waits; None if never at this pace."""
        if not self.look.total:
            return 0.0
        gain = self.rate - self.arriving
        return self.look.total / gain if gain > 0 else None


def pace(before: Look, after: Look) -> tuple[float, float, float]:
    """Offsets a second committed, arriving and failing, without new partitions."""
    seconds = after.at - before.at
    same = [partition for partition in after.group.partitions if partition in before.group.partitions]
    done = sum(max(0, after.starts[each] - before.starts[each]) for each in same)
    came = sum(max(0, after.group.partitions[each].end - before.group.partitions[each].end) for each in same)
    failed = sum(after.letters[each].end - before.letters[each].end for each in before.letters)
    return (done / seconds, came / seconds, failed / seconds) if seconds > 0 else (0.0, 0.0, 0.0)


def start_of(reach: Reach, offset_reset: str) -> int:
    """The next offset that the group will read; deleted records are not counted."""
    if reach.committed is None:
        return reach.end if offset_reset == "latest" else reach.first
    return max(reach.committed, reach.first)


class Observer:
    """Looks at the group, by the client that watches it."""

    def __init__(self, settings: Settings, watch: GroupWatch) -> None:
        self._settings = settings
        self._watch = watch

    def group(self) -> Look:
        """The group without ages."""
        group = self._watch.look()
        starts = {place: start_of(reach, self._settings.offset_reset) for place, reach in group.partitions.items()}
        letters = extents(
            servers(self._settings), [self._settings.dead_letter_topic], security=security(self._settings)
        )
        return Look(time.monotonic(), group, starts, {}, letters)

    def with_ages(self, look: Look) -> Look:
        spans = {
            place: (look.starts[place], reach.end) for place, reach in look.group.partitions.items() if look.lag(place)
        }
        try:
            times = first_times(servers(self._settings), spans, security=security(self._settings))
        except Unavailable:  # a batch that the broker can't open; what waits is known
            times = {}
        now_ms = time.time() * 1000
        # Producers set the time of their records: it may be absent, or in the future.
        ages = {place: max(0.0, (now_ms - at) / 1000) for place, at in times.items() if at >= 0}
        return replace(look, ages=ages, tokens=self._tokens())

    def _tokens(self) -> int | None:
        if self._settings.captioner_address is None:
            return None
        from workers.assembly.remote import endpoint_check  # brings the bundles' modules

        try:
            return endpoint_check(self._settings).tokens_spent()
        except TagstreamError:  # Redis is away, or the file is wrong: `check` says so
            return None


def snapshots(observer: Observer, interval: float, watch: bool, background: Collection[str] = ()) -> Iterator[Snapshot]:
    """Yield a snapshot, or with `watch` one every `interval` seconds.

    Args:
        background: the background topics.
    """
    looks = deque([observer.group()], maxlen=LOOKS)
    while True:
        time.sleep(max(0.0, looks[-1].at + interval - time.monotonic()))
        looks.append(observer.group())
        last = observer.with_ages(looks[-1])
        lanes: dict[Lane, Snapshot] = {}
        for lane in get_args(Lane):
            first, now = (look.of_lane(lane, background) for look in (looks[0], last))
            lanes[lane] = Snapshot(now, *pace(first, now))
        yield Snapshot(last, *pace(looks[0], last), lanes)
        if not watch:
            return
