"""`tagstream topics`: make the topics that the settings name, and compare those that are there with what is advised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.cli import terminal
from workers.cli.exit_codes import FOUND
from workers.cli.needs import needed
from workers.cli.topic_advice import MIN_INSYNC, PARTITIONS, REPLICATION_MAX, Deviation, WantedTopic

if TYPE_CHECKING:
    from workers.backends.kafka import TopicState
    from workers.settings import Settings

app = typer.Typer(help="Make the topics that the settings name, and check those that are there.", no_args_is_help=True)

Replication = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=100, help=f"Copies of each partition. By default {REPLICATION_MAX}, or one a broker."
    ),
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
            help=f"Of input and output topics: as many workers can share them. By default {PARTITIONS}.",
        ),
    ] = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """Create the missing topics with the advised partitions, copies and settings.

    A topic that exists is never changed. If its number of partitions is not that of --partitions, this is said, with
    the command that adds some; [bold]tagstream topics check[/] says what else is not as advised. Topics for dead
    letters, skips and corrections get one partition.

    [dim]For up to 24 workers:[/]  tagstream topics create --partitions 24
    """
    from workers.backends.kafka import ensure_topics
    from workers.cli.clients import security, servers

    of_busy = partitions or PARTITIONS
    settings = needed("kafka_servers")
    wanted, copies = _wanted(settings), _replication(settings, replication)
    made = ensure_topics(
        servers(settings),
        {topic.name: (topic.partitions(of_busy), topic.settings(copies)) for topic in wanted},
        replication=copies,
        security=security(settings),
    )
    found = _found(settings, wanted)
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
    """Warn about existing topics with another number of partitions."""
    from workers.cli.clients import servers
    from workers.cli.topic_advice import more_partitions

    console = terminal.console(stderr=True)
    for topic in busy:
        has = found[topic.name].partitions if topic.name in found else asked
        if has < asked:
            more = more_partitions(topic.name, has, asked, servers=servers(settings))
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
            metavar="N",
            min=1,
            max=10_000,
            help="Input and output topics should have as many at least. By default any number will do.",
        ),
    ] = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """List how topics differ from the advice, with commands that correct them.

    Changes nothing.

    Ends with 1 if there is any difference. What of a topic we may not read is not looked at; Kafka's own commands need
    [bold]--command-config[/] where the cluster asks for a password.
    """

    settings = needed("kafka_servers")
    wanted, copies = _wanted(settings), _replication(settings, replication)
    found = _found(settings, wanted)
    differing = _deviations(settings, wanted, found, copies, partitions)
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


def topic_deviations(settings: Settings) -> list[Deviation]:
    """How existing topics differ from the advice, for `tagstream check`."""

    wanted = _wanted(settings)
    found = _found(settings, wanted)
    return _deviations(settings, wanted, found, _replication(settings, None), None)


def _deviations(
    settings: Settings,
    wanted: Sequence[WantedTopic],
    found: dict[str, TopicState],
    replication: int,
    partitions: int | None,
) -> list[Deviation]:
    from workers.cli.clients import servers
    from workers.cli.topic_advice import deviations

    return list(deviations(wanted, found, servers=servers(settings), replication=replication, partitions=partitions))


def _wanted(settings: Settings) -> list[WantedTopic]:
    from workers.cli.topic_advice import wanted_topics

    return wanted_topics(settings)


def _found(settings: Settings, wanted: Sequence[WantedTopic]) -> dict[str, TopicState]:
    from workers.backends.kafka import describe_topics
    from workers.cli.clients import security, servers

    return describe_topics(servers(settings), _settings_by_topic(wanted), security=security(settings))


def _replication(settings: Settings, asked: int | None) -> int:
    from workers.backends.kafka import brokers
    from workers.cli.clients import security, servers

    return asked or min(REPLICATION_MAX, brokers(servers(settings), security=security(settings)))


def _settings_by_topic(wanted: Sequence[WantedTopic]) -> dict[str, list[str]]:
    return {topic.name: [*(advice.name for advice in topic.advice), MIN_INSYNC] for topic in wanted}


def _document(topic: WantedTopic, state: TopicState | None) -> dict[str, Any]:
    known = {"topic": topic.name, "role": topic.role, "exists": state is not None}
    if state is None:
        return known
    return known | {
        "partitions": state.partitions,
        "replication": state.replication,
        "settings": dict(state.settings),
    }


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
