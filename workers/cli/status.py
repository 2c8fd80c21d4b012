"""`tagstream status`: shows the group's progress, members and dead letters."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import duration, moment_ms
from workers.errors import Unavailable

if TYPE_CHECKING:
    from workers.backends.kafka import GroupState, GroupWatch, Reach, Recent, Tail
    from workers.settings import Settings
    from workers.types import Partition

SHOWN_PARTITIONS = 32


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.5, max=3600, help="Seconds between two looks, which give the rate."),
    ] = 2.0,
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="Count dead letters from then on: 2026-01-31T08:00Z, or 90m, 12h, 7d ago."),
    ] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document; with --watch one a line.")] = False,
) -> None:
    """Show the group's members, lag by partition, rate and dead letters.

    Lag is in offsets behind the committed one, and in seconds: the age of the first uncommitted record. At most the
    last 1,000 dead letters of each partition are read. Changes nothing, and does not join the group.

    [dim]Live:[/]          tagstream status --watch
    [dim]For a script:[/]  tagstream status --json | jq .lag
    """
    settings = needed("kafka_servers")
    since_ms = moment_ms(since)
    with observing(settings, since_ms) as observer:
        seen = snapshots(observer, interval, watch)
        if as_json:
            for snapshot in seen:
                typer.echo(terminal.as_json(document(settings, snapshot)))
        else:
            _show(settings, seen, live=watch)


def document(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    look, letters = snapshot.look, snapshot.letters
    return {
        "group": settings.group,
        "state": look.group.state,
        "members": [
            {"id": member.id, "host": member.host, "partitions": [str(each) for each in member.partitions]}
            for member in look.group.members
        ],
        "lag": look.total,
        "lag_s": _rounded(max(look.ages.values(), default=None)),
        "rate": round(snapshot.rate, 2),
        "arriving": round(snapshot.arriving, 2),
        "eta_s": _rounded(snapshot.eta_s),
        "partitions": [
            {
                "topic": place.topic,
                "partition": place.number,
                "committed": reach.committed,
                "first": reach.first,
                "end": reach.end,
                "lag": look.lag(place),
                "lag_s": _rounded(look.ages.get(place)),
                "deleted_unread": _deleted(reach),
            }
            for place, reach in look.group.partitions.items()
        ],
        "dead_letters": {
            "topic": settings.dead_letter_topic,
            "since": terminal.moment(letters.since_ms),
            "count": None if letters.uncounted else letters.letters,
            "uncounted": letters.uncounted or None,
            "older_left_out": letters.cut,
            "reasons": dict(letters.reasons.most_common()),
            "unknown": letters.others,
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _deleted(reach: Reach) -> int:
    """Offsets that retention deleted before the group read them."""
    return 0 if reach.committed is None else max(0, reach.first - reach.committed)


def _show(settings: Settings, seen: Iterator[Snapshot], *, live: bool) -> None:
    console = terminal.console()
    if not (live and console.is_terminal):
        for snapshot in seen:
            console.print(page(settings, snapshot))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
        for snapshot in seen:
            screen.update(page(settings, snapshot), refresh=True)


def page(settings: Settings, snapshot: Snapshot) -> Group:
    """The page for one snapshot."""
    look = snapshot.look
    parts: list[Text | Table] = [terminal.text(_headline(settings, snapshot), "bold")]
    parts += [_members(look), _partitions(look)]
    parts += [terminal.text(line, "red") for line in _warnings(look)]
    parts.append(terminal.text(_letters(settings, snapshot.letters), lines=True))
    return Group(*parts)


def _headline(settings: Settings, snapshot: Snapshot) -> str:
    """`tagstream: stable, 3 members · 1,204 waiting · 210.4/s done, 12.0/s coming in · done in 6 s`"""
    look = snapshot.look
    state = "there is no such group (yet)" if look.group.state == "dead" else look.group.state
    members = counted(len(look.group.members), "member")
    pace_of = f"{snapshot.rate:,.1f}/s done, {snapshot.arriving:,.1f}/s coming in"
    if snapshot.eta_s is None:
        end = "not done at this pace"
    else:
        end = f"done in {duration(snapshot.eta_s)}" if look.total else "nothing waits"
    return f"{settings.group}: {state}, {members} · {look.total:,} waiting · {pace_of} · {end}"


def _members(look: Look) -> Table:
    table = Table("member", "host", "partitions", box=None, pad_edge=False)
    for member in look.group.members:
        partitions = ", ".join(str(each) for each in member.partitions) or "none: more members than partitions?"
        table.add_row(*map(terminal.text, (member.id, member.host, partitions)))
    return table


def _partitions(look: Look) -> Table:
    table = Table("partition", "committed", "end", "waiting", "oldest", box=None, pad_edge=False)
    places = list(look.group.partitions)
    if len(places) > SHOWN_PARTITIONS:
        places = sorted(places, key=look.lag, reverse=True)[:SHOWN_PARTITIONS]
    for place in places:
        reach, age = look.group.partitions[place], look.ages.get(place)
        committed = "nothing yet" if reach.committed is None else f"{reach.committed:,}"
        oldest = "" if age is None else duration(age)
        table.add_row(terminal.text(str(place)), committed, f"{reach.end:,}", f"{look.lag(place):,}", oldest)
    return table


def _warnings(look: Look) -> Iterator[str]:
    hidden = len(look.group.partitions) - SHOWN_PARTITIONS
    if hidden > 0:
        yield f"not shown: {counted(hidden, 'partition')} with less waiting (--json has all)"
    for place, reach in look.group.partitions.items():
        if deleted := _deleted(reach):
            offsets = counted(deleted, "offset")
            yield f"{place}: retention deleted {offsets} that the group had not read; raise the topic's"


def _letters(settings: Settings, letters: LetterCounts) -> str:
    which = f"since {terminal.moment(letters.since_ms)} UTC"
    if letters.cut:
        which += f", of the last {MOST_LETTERS:,} of a partition"
    if letters.uncounted:
        return f"dead letters in {settings.dead_letter_topic} can't be counted: {letters.uncounted}"
    lines = [f"{counted(letters.letters, 'dead letter')} in {settings.dead_letter_topic} {which}"]
    lines += [f"{count:7,} {reason}" for reason, count in letters.reasons.most_common()]
    if letters.others:
        lines.append(f"{letters.others:7,} unknown: not of the form of a dead letter")
    return "\n".join(lines)


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
        """The group alone, without ages."""
        group = self._watch.look()
        starts = {place: start_of(reach, self._settings.offset_reset) for place, reach in group.partitions.items()}
        return Look(time.monotonic(), group, starts, {})

    def with_ages(self, look: Look) -> Look:
        from workers.assembly.clients import security, servers
        from workers.backends.kafka import first_times

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
        from schemas.dead_letter import read_dead_letter_headers

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
    from workers.assembly.clients import security, servers
    from workers.backends.kafka import group_watch, recent_offsets, tail

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
