"""`tagstream status`: shows the group's progress, members and dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import duration
from workers.lanes import lane_of

if TYPE_CHECKING:
    from workers.assembly.group_status import Look, Snapshot
    from workers.backends.kafka import Reach
    from workers.settings import Settings

SHOWN_PARTITIONS = 32


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.5, max=3600, help="Seconds between two looks, which give the rate."),
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document; with --watch one a line.")] = False,
) -> None:
    """Show the group's members, lag by lane and partition, and dead letters.

    Lag is in offsets behind the committed one, and in seconds: the age of the first uncommitted record. Changes
    nothing, and does not join the group. [bold]tagstream dead-letters list[/] counts dead letters by reason.

    [dim]Live:[/]          tagstream status --watch
    [dim]For a script:[/]  tagstream status --json | jq .lag
    """
    from workers.assembly.clients import security, servers
    from workers.assembly.group_status import Observer, snapshots
    from workers.backends.kafka import group_watch

    settings = needed("kafka_servers")
    address, login = servers(settings), security(settings)
    with group_watch(address, settings.group, settings.topics, security=login) as watched:
        seen = snapshots(Observer(settings, watched), interval, watch, settings.background_topics)
        console = terminal.console()
        if as_json or not (watch and console.is_terminal):
            for snapshot in seen:
                if as_json:
                    typer.echo(terminal.as_json(document(settings, snapshot)))
                else:
                    console.print(page(settings, snapshot))
            return
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
            for snapshot in seen:
                screen.update(page(settings, snapshot), refresh=True)


def document(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    look = snapshot.look
    return {
        "group": settings.group,
        "state": look.group.state,
        "members": [
            {"id": member.id, "host": member.host, "partitions": [str(each) for each in member.partitions]}
            for member in look.group.members
        ],
        **_progress(snapshot),
        "lanes": {lane: _progress(of_lane) for lane, of_lane in snapshot.lanes.items()},
        "dead_letters": {
            "topic": settings.dead_letter_topic,
            "at_most": look.letters_at_most,
            "rate": round(snapshot.failing, 2),
        },
        "caption_tokens": None
        if look.tokens is None
        else {"spent": look.tokens, "per_day": settings.caption_tokens_per_day},
        "partitions": [
            {
                "topic": place.topic,
                "partition": place.number,
                "lane": lane_of(place, settings.background_topics),
                "committed": reach.committed,
                "first": reach.first,
                "end": reach.end,
                "lag": look.lag(place),
                "lag_s": _rounded(look.ages.get(place)),
                "deleted_unread": _deleted(reach),
            }
            for place, reach in look.group.partitions.items()
        ],
    }


def _progress(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "lag": snapshot.look.total,
        "lag_s": _rounded(snapshot.look.oldest),
        "rate": round(snapshot.rate, 2),
        "arriving": round(snapshot.arriving, 2),
        "eta_s": _rounded(snapshot.eta_s),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _deleted(reach: Reach) -> int:
    """Offsets that retention deleted before the group read them."""
    return 0 if reach.committed is None else max(0, reach.first - reach.committed)


def page(settings: Settings, snapshot: Snapshot) -> Group:
    """The page for one snapshot."""
    look = snapshot.look
    parts: list[Text | Table] = [terminal.text(_headline(settings, snapshot), "bold")]
    if settings.background_topics:
        parts.append(_lanes(snapshot))
    parts += [_members(look), _partitions(look)]
    parts += [terminal.text(line, "red") for line in _warnings(look)]
    if look.tokens is not None:
        per_day = settings.caption_tokens_per_day
        parts.append(terminal.text(f"{look.tokens:,} of {per_day:,} tokens for captions are spent today (UTC)"))
    if look.letters_at_most:
        letters = counted(look.letters_at_most, "dead letter")
        parts.append(
            terminal.text(f"at most {letters} in {settings.dead_letter_topic}, {snapshot.failing:,.1f}/s more")
        )
    return Group(*parts)


def _headline(settings: Settings, snapshot: Snapshot) -> str:
    """`tagstream: stable, 3 members · 1,204 waiting · 210.4/s done, 12.0/s coming in · done in 6 s`"""
    look = snapshot.look
    state = "there is no such group (yet)" if look.group.state == "dead" else look.group.state
    members = counted(len(look.group.members), "member")
    hosts = len({member.host for member in look.group.members})
    if 0 < hosts < len(look.group.members):  # processes of TAGSTREAM_WORKERS are members of their own
        members += f" on {counted(hosts, 'host')}"
    pace_of = f"{snapshot.rate:,.1f}/s done, {snapshot.arriving:,.1f}/s coming in"
    return f"{settings.group}: {state}, {members} · {look.total:,} waiting · {pace_of} · {_end(snapshot)}"


def _end(snapshot: Snapshot) -> str:
    if snapshot.eta_s is None:
        return "not done at this pace"
    return f"done in {duration(snapshot.eta_s)}" if snapshot.look.total else "nothing waits"


def _lanes(snapshot: Snapshot) -> Table:
    table = Table("lane", "waiting", "oldest", "done", "coming in", "", box=None, pad_edge=False)
    for lane, each in snapshot.lanes.items():
        oldest = "" if each.look.oldest is None else duration(each.look.oldest)
        rates = f"{each.rate:,.1f}/s", f"{each.arriving:,.1f}/s"
        table.add_row(lane, f"{each.look.total:,}", oldest, *rates, _end(each))
    return table


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
