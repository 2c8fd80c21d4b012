"""`tagstream topics`: makes the settings' topics and compares existing ones with the advice."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.cli import terminal
from workers.cli.needs import needed
from workers.errors import FOUND

if TYPE_CHECKING:
    from workers.backends.kafka import TopicState
    from workers.settings import Settings

PARTITIONS = 12
"""Default of input and output topics: as many workers can share them, and it has many
divisors."""

REPLICATION_MAX = 3
MIN_INSYNC = "min.insync.replicas"

app = typer.Typer(help="Make the settings' topics, and check existing ones.", no_args_is_help=True)

Replication = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=100, help=f"Copies of each partition. Default: {REPLICATION_MAX}, or one a broker."
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
    from workers.backends.kafka import ensure_topics
    from workers.cli.clients import security, servers

    of_busy = partitions or PARTITIONS
    settings = needed("kafka_servers")
    wanted, copies = wanted_topics(settings), _replication(settings, replication)
    made = ensure_topics(
        servers(settings),
        {topic.name: (topic.partitions(of_busy), topic.settings(copies)) for topic in wanted},
        replication=copies,
        security=security(settings),
        timeout_s=10,
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
            help="Least partitions of input and output topics. Default: any number.",
        ),
    ] = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """List how topics differ from the advice, with commands that correct them.

    Changes nothing. Exits with 1 if there is any difference. Settings that we may not read are left out; Kafka's own
    commands need [bold]--command-config[/] if the cluster requires a password.
    """
    settings = needed("kafka_servers")
    wanted, copies = wanted_topics(settings), _replication(settings, replication)
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
    wanted = wanted_topics(settings)
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

    return list(deviations(wanted, found, servers=servers(settings), replication=replication, partitions=partitions))


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
    named = [("input", topic) for topic in settings.input_topics]
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
