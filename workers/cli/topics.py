"""`tagstream topics`: makes the settings' topics and compares existing ones with the advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.errors import FOUND

if TYPE_CHECKING:
    from workers.assembly.topics import WantedTopic
    from workers.backends.kafka import TopicState
    from workers.settings import Settings

PARTITIONS = 12
"""Default of input and output topics: as many workers can share them, and it has many
divisors."""

app = typer.Typer(help="Make the settings' topics, and check existing ones.", no_args_is_help=True)

Replication = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=100, help="Copies of each partition. Default: 3, or one a broker.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@app.command()
def create(
    partitions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10_000,
            help=f"Partitions of input and output topics: most workers that can share them. Default: {PARTITIONS}.",
        ),
    ] = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """Create the missing topics with the advised partitions, copies and settings.

    Existing topics are never changed; if one has another number of partitions, the command that adds some is shown.
    [bold]tagstream topics check[/] tells what else differs from the advice. Topics for dead letters, skips and
    corrections get one partition.

    [dim]For up to 24 workers:[/]  tagstream topics create --partitions 24
    """
    from workers.assembly.topics import found_topics, make_topics, wanted_topics

    settings = needed("kafka_servers")
    wanted = wanted_topics(settings)
    made = make_topics(settings, wanted, partitions or PARTITIONS, replication)
    found = found_topics(settings, wanted)
    if as_json:
        rows = [_document(topic, found.get(topic.name)) | {"made": topic.name in made} for topic in wanted]
        typer.echo(terminal.as_json({"topics": rows}))
    else:
        terminal.console().print(_table(wanted, found, made))
        if partitions is not None:
            _warn_of_other_numbers(settings, [topic for topic in wanted if topic.busy], found, partitions)


def _warn_of_other_numbers(
    settings: Settings, busy: Sequence[WantedTopic], found: Mapping[str, TopicState], asked: int
) -> None:
    from workers.assembly.topics import more_partitions

    console = terminal.console(stderr=True)
    for topic in busy:
        has = found[topic.name].partitions if topic.name in found else asked
        if has < asked:
            more = more_partitions(topic.name, has, asked, servers=",".join(settings.kafka_servers))
            console.print("\nnote:", terminal.text(f"{more.topic} was there: it {more.says}"), style="yellow")
            console.print(terminal.text(f"  {more.command}"))
        elif has > asked:
            says = f"was there: it has {counted(has, 'partition')}, not {asked}; Kafka takes none away from a topic"
            console.print("\nnote:", terminal.text(f"{topic.name} {says}"), style="yellow")


@app.command()
def check(
    partitions: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=10_000, help="Least partitions of input and output topics. Default: any number."
        ),
    ] = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """List how topics differ from the advice, with commands that correct them.

    Changes nothing. Exits with 1 if there is any difference. Settings that we may not read are left out; Kafka's own
    commands need [bold]--command-config[/] if the cluster requires a password.
    """
    from workers.assembly.clients import servers
    from workers.assembly.topics import advised_replication, deviations, found_topics, wanted_topics

    settings = needed("kafka_servers")
    wanted = wanted_topics(settings)
    found = found_topics(settings, wanted)
    copies = replication or advised_replication(settings)
    differing = [*deviations(wanted, found, servers=servers(settings), replication=copies, partitions=partitions)]
    if as_json:
        rows = [_document(topic, found.get(topic.name)) for topic in wanted]
        faults = [{"topic": each.topic, "says": each.says, "command": each.command} for each in differing]
        typer.echo(terminal.as_json({"topics": rows, "deviations": faults}))
    else:
        console = terminal.console()
        console.print(_table(wanted, found))
        for each in differing:
            console.print("\n✗", terminal.text(f"{each.topic} {each.says}"), style="red")
            console.print(terminal.text(f"  {each.command}"))
    if differing:
        raise typer.Exit(FOUND)


def _document(topic: WantedTopic, state: TopicState | None) -> dict[str, Any]:
    known = {"topic": topic.name, "role": topic.role, "exists": state is not None}
    if state is None:
        return known
    return known | {"partitions": state.partitions, "replication": state.replication, "settings": dict(state.settings)}


def _table(wanted: Sequence[WantedTopic], found: dict[str, TopicState], made: Sequence[str] | None = None) -> Table:
    table = Table("topic", "for", "partitions", "copies", "settings", "", box=None, pad_edge=False)
    for topic in wanted:
        state = found.get(topic.name)
        if state is None:
            table.add_row(topic.name, topic.role, "", "", "", "missing", style="red")
            continue
        settings = ", ".join(f"{name}={value}" for name, value in state.settings.items())
        numbers = str(state.partitions), str(state.replication)
        news = "" if made is None else "made" if topic.name in made else "was there"
        table.add_row(topic.name, topic.role, *numbers, terminal.text(settings), news)
    return table
