"""Looks at the consumer group and at its dead letters."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from schemas.dead_letter import read_dead_letter_headers
from workers.assembly.clients import security, servers
from workers.backends.kafka import (
    GroupState,
    GroupWatch,
    Reach,
    Recent,
    Tail,
    first_times,
    group_watch,
    recent_offsets,
    tail,
)
from workers.errors import Unavailable
from workers.settings import Settings
from workers.types import Partition

MOST_LETTERS = 1_000
"""Dead letters that are read of each partition of their topic, the newest: they may be large."""

LOOKS = 16
"""Looks over which the pace is taken where there are many."""

_WAIT_S = 10.0
"""How long the dead letters are read at once."""


@dataclass(frozen=True, slots=True)
class Look:
    """The group at one moment.

    Args:
        at: by the monotonic clock.
        ages: of each partition's first waiting record, in seconds.
    """

    at: float
    group: GroupState
    starts: Mapping[Partition, int]
    ages: Mapping[Partition, float]

    def lag(self, partition: Partition) -> int:
        return max(0, self.group.partitions[partition].end - self.starts[partition])

    @property
    def total(self) -> int:
        return sum(map(self.lag, self.group.partitions))


@dataclass(slots=True)
class LetterCounts:
    """Dead letters since a moment, counted by reason."""

    since_ms: int
    cut: bool = False
    reasons: Counter[str] = field(default_factory=Counter)
    letters: int = 0
    others: int = 0
    """Records of the topic that are no dead letters."""
    uncounted: str = ""
    """Why they can't be counted, where that is so."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last look, rates in offsets a second, and dead letters."""

    look: Look
    rate: float
    arriving: float
    letters: LetterCounts

    @property
    def eta_s(self) -> float | None:
        """Seconds until nothing waits; None if never at this pace."""
        if not self.look.total:
            return 0.0
        gain = self.rate - self.arriving
        return self.look.total / gain if gain > 0 else None


def pace(before: Look, after: Look) -> tuple[float, float]:
    """Offsets a second committed and arriving, without new partitions."""
    seconds = after.at - before.at
    same = [partition for partition in after.group.partitions if partition in before.group.partitions]
    done = sum(max(0, after.starts[each] - before.starts[each]) for each in same)
    came = sum(max(0, after.group.partitions[each].end - before.group.partitions[each].end) for each in same)
    return (done / seconds, came / seconds) if seconds > 0 else (0.0, 0.0)


def start_of(reach: Reach, offset_reset: str) -> int:
    """The next offset that the group will read; deleted records are not counted."""
    if reach.committed is None:
        return reach.end if offset_reset == "latest" else reach.first
    return max(reach.committed, reach.first)


class Observer:
    """Looks at the group and the dead letters."""

    def __init__(self, settings: Settings, watch: GroupWatch, count_letters: Callable[[], LetterCounts]) -> None:
        self._settings = settings
        self._watch = watch
        self._count_letters = count_letters

    def group(self) -> Look:
        """The group without ages."""
        group = self._watch.look()
        starts = {place: start_of(reach, self._settings.offset_reset) for place, reach in group.partitions.items()}
        return Look(time.monotonic(), group, starts, {})

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
        return replace(look, ages=ages)

    def letters(self) -> LetterCounts:
        return self._count_letters()


class _Letters:
    """Counts the dead letters from `recent` on."""

    def __init__(self, reading: Tail, recent: Mapping[Partition, Recent], since_ms: int) -> None:
        self._reading = reading
        self._ends = {partition: each.end for partition, each in recent.items()}
        self._counts = LetterCounts(since_ms, any(each.cut for each in recent.values()))

    def count(self) -> LetterCounts:
        """The counts so far, at least up to the ends in `recent`."""
        self._counts.uncounted = ""
        try:
            self._read()
        except Unavailable as error:
            self._counts.uncounted = error.detail
        return self._counts

    def _read(self) -> None:
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            records = self._reading.poll(0.2)
            for record in records:
                try:
                    letter = read_dead_letter_headers(record.headers)
                except ValueError:
                    self._counts.others += 1
                    continue
                self._counts.letters += 1
                self._counts.reasons.update({failure.reason for failure in letter.failures})
            positions = self._reading.positions()
            if not records and all(positions[partition] >= end for partition, end in self._ends.items()):
                break


@contextmanager
def observing(settings: Settings, since_ms: int) -> Iterator[Observer]:
    at, how, topic = servers(settings), security(settings), settings.dead_letter_topic
    with ExitStack() as stack:
        watch = stack.enter_context(group_watch(at, settings.group, settings.input_topics, security=how))
        try:
            recent = recent_offsets(at, topic, since_ms, MOST_LETTERS, security=how)
        except Unavailable as error:  # to find a time in the topic, the broker opens batches
            uncounted = LetterCounts(since_ms, uncounted=error.detail)
            yield Observer(settings, watch, lambda: uncounted)
            return
        starts = {partition: each.start for partition, each in recent.items()}
        reading = stack.enter_context(tail(at, [topic], at=starts, follow=True, security=how))
        yield Observer(settings, watch, _Letters(reading, recent, since_ms).count)


def snapshots(observer: Observer, interval: float, watch: bool) -> Iterator[Snapshot]:
    """Yield a snapshot, or with `watch` one every `interval` seconds."""
    looks = deque([observer.group()], maxlen=LOOKS)
    while True:
        time.sleep(max(0.0, looks[-1].at + interval - time.monotonic()))
        looks.append(observer.group())
        rate, arriving = pace(looks[0], looks[-1])
        yield Snapshot(observer.with_ages(looks[-1]), rate, arriving, observer.letters())
        if not watch:
            return
