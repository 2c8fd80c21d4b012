"""`tagstream dead-letters`: lists, shows and replays dead letters; makes one of a record to skip."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.printable import printable
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import NOTHING_YET, GoOption, moment_ms
from workers.errors import Misconfigured, TagstreamError, closest

if TYPE_CHECKING:
    from workers.assembly.replay import Choice, DeadLetterRecord
    from workers.settings import Settings

_SHOWN_TOPICS = 5
_TABLE_ROWS = 500
_COLUMNS = ("dead letter", "when", "record", "key", "reason", "detail")
TOPIC_LENGTH_MAX = 249
"""Characters, by Kafka's own rule."""

app = typer.Typer(help="Look at dead letters, send them back, and skip a record.", no_args_is_help=True)

Reasons = Annotated[list[str] | None, typer.Option("--reason", metavar="REASON", help="Only this reason; repeatable.")]
Wants = Annotated[
    list[str] | None,
    typer.Option("--want", metavar="RESULT", help="Only failures of this result (tags, …); repeatable."),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only since this time: 2026-01-31, 2026-01-31T08:00Z, or 90m, 12h, 7d ago."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only before this time.")]
Keys = Annotated[
    str | None, typer.Option("--key", metavar="GLOB", help="Only keys that match, such as 'photos/2024/*'.")
]


@app.command("list")
def list_letters(
    reason: Reasons = None,
    want: Wants = None,
    since: Since = None,
    until: Until = None,
    key: Keys = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """List dead letters, and count them by reason. tagstream dead-letters list --since 12h --reason broken-image"""
    from workers.assembly.replay import read_letters
    from workers.assembly.topic_reading import Foreign

    settings = needed("kafka_servers")
    foreign = Foreign()
    dead_letters = read_letters(settings, _choice(reason, want, since, until, key), foreign)
    if as_json:
        for dead_letter in dead_letters:
            typer.echo(terminal.as_json(_summary(dead_letter)))
    else:
        print_table(dead_letters)
    terminal.note(*foreign.notes("not dead letters"))


def print_table(dead_letters: Iterator[DeadLetterRecord]) -> None:
    """Print a table for each `_TABLE_ROWS` dead letters, which bounds memory."""
    counts: Counter[str] = Counter()
    total = 0
    console = terminal.console()
    while some := list(islice(dead_letters, _TABLE_ROWS)):
        rows = ([*map(terminal.text, row_of(dead_letter))] for dead_letter in some)
        console.print(terminal.listing(_COLUMNS, rows, 3, console.width))
        counts.update(cause for dead_letter in some for cause in dead_letter.causes)
        total += len(some)
    for name, count in counts.most_common():
        console.print(f"{count:7} {name}")
    console.print(f"{total:7} dead letter{'s' * (total != 1)}")


@app.command()
def show(
    place: Annotated[
        str,
        typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="The dead letter, as the list names it; or its record."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, the record in `original`.")] = False,
) -> None:
    """Show a dead letter with its failures and its original record.

    tagstream dead-letters show images.dead-letters:0:17
    """
    from workers.assembly.replay import find_letter
    from workers.assembly.skipping import parse_place

    settings = needed("kafka_servers")
    dead_letter = find_letter(settings, *parse_place(place))
    if as_json:
        typer.echo(terminal.as_json({**_summary(dead_letter), "original": _original(dead_letter)}))
        return
    terminal.show_json(_summary(dead_letter))
    terminal.console().print("\nThe original record:", style="bold")
    terminal.show_json(_original(dead_letter))


@app.command()
def replay(
    reason: Reasons = None,
    want: Wants = None,
    since: Since = None,
    until: Until = None,
    key: Keys = None,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", metavar="TOPIC", help="Also send to this topic, beside TAGSTREAM_INPUT_TOPICS."),
    ] = None,
    go: GoOption = False,
    rate: Annotated[float, typer.Option(metavar="N", min=0.1, help="Most records a second.")] = 50.0,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Most records in all.")] = None,
) -> None:
    """Send dead letters back to their topics, to redo what failed.

    Replayed dead letters stay in their topic: choose by time, to send each once. One without its whole original can't
    be sent. One that names a topic outside of TAGSTREAM_INPUT_TOPICS needs --topic, since the writer of a dead letter
    chooses that name.

    [dim]What would be sent:[/]  tagstream dead-letters replay --reason unreadable --since 2h
    [dim]Send it:[/]             tagstream dead-letters replay --reason unreadable --since 2h --go
    """
    from workers.assembly.replay import read_letters, up_to
    from workers.assembly.topic_reading import Foreign

    settings = needed("kafka_servers")
    foreign = Foreign()
    dead_letters = up_to(limit, read_letters(settings, _choice(reason, want, since, until, key), foreign))
    terminal.note(*foreign.notes("not dead letters"))
    whole = sendable(dead_letters, {*settings.topics, *(topics or ())})
    counts = Counter[str]()
    for dead_letter in whole:
        counts.update(dict.fromkeys(dead_letter.causes, len(dead_letter.meant)))
    for name, count in counts.most_common():
        typer.echo(f"{count:7} {name}")
    if not go:
        typer.echo(f"{_records(whole):7} would be sent back\n{NOTHING_YET}")
        return
    typer.echo(f"{send_back(settings, whole, rate):7} sent back")


@app.command()
def skip(
    record: Annotated[str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="The record, as the log names it.")],
    go: GoOption = False,
) -> None:
    """Replace one record by a dead letter ("skipped-by-operator").

    For a record that stops every worker by a bug of ours. It must be the next one of its partition. It is not read,
    since reading may be what stops the workers: the dead letter holds nothing of it, and the record stays in its topic.
    Stop the group's workers first: a member that holds the partition would keep it.

    [dim]What would be skipped:[/]  tagstream dead-letters skip images:3:41977
    [dim]Skip it:[/]                tagstream dead-letters skip images:3:41977 --go
    """
    from workers.assembly.skipping import Skipping, parse_place

    topic, partition, offset = parse_place(record)
    skipping = Skipping(needed("kafka_servers"), topic, partition, offset, lambda line: typer.echo(line, err=True))
    if go:
        skipping.run()
        typer.echo(f"{record} is replaced by a dead letter; the group continues at offset {offset + 1}")
        return
    skipping.require_record()
    typer.echo(f"{record} would be replaced by a dead letter, and the group continue at offset {offset + 1}")
    typer.echo(NOTHING_YET)


def sendable(dead_letters: Sequence[DeadLetterRecord], topics: Set[str]) -> list[DeadLetterRecord]:
    """The dead letters that can be sent; prints why others can't.

    They have their whole value and name one of these topics.
    """
    whole = [dead_letter for dead_letter in dead_letters if not dead_letter.told.truncated]
    if len(whole) < len(dead_letters):
        typer.echo(f"{_records(dead_letters) - _records(whole):7} can't be sent: not all of the originals was kept")
    strange = Counter[str]()
    for dead_letter in whole:
        if dead_letter.told.topic not in topics:
            strange[dead_letter.told.topic] += len(dead_letter.meant)
    for topic, count in strange.most_common(_SHOWN_TOPICS):
        named = printable(topic[:TOPIC_LENGTH_MAX])
        typer.echo(f"{count:7} not sent: they name the topic {named!r}, outside of TAGSTREAM_INPUT_TOPICS (--topic)")
    if len(strange) > _SHOWN_TOPICS:
        typer.echo(f"{len(strange) - _SHOWN_TOPICS:7} more such topics")
    return [dead_letter for dead_letter in whole if dead_letter.told.topic in topics]


def _records(dead_letters: Sequence[DeadLetterRecord]) -> int:
    return sum(len(dead_letter.meant) for dead_letter in dead_letters)


def send_back(settings: Settings, dead_letters: Sequence[DeadLetterRecord], rate: float) -> int:
    """Send each to its original topic, at most `rate` a second.

    Each is acknowledged before the next. One that is too long for its topic, with the header that names what failed,
    is reported and left out: a producer that was refused once sends nothing more. A stop waits for the acknowledgement,
    and names the last one.

    Returns:
        How many were sent.
    """
    from workers.assembly.clients import security, servers
    from workers.assembly.replay import originals
    from workers.backends.kafka import KafkaEmitter, max_message_bytes
    from workers.service.process import stop_on_signals

    if not dead_letters:
        return 0
    topics = sorted({dead_letter.told.topic for dead_letter in dead_letters})
    limits = max_message_bytes(servers(settings), topics, security=security(settings))
    largest = max(limits.values())
    count = _records(dead_letters)
    messages = ((each.record.place, message) for each in dead_letters for message in originals(each))
    started, sent = time.monotonic(), 0
    at = "none"
    stop = threading.Event()
    try:
        with (
            KafkaEmitter(servers(settings), security=security(settings), max_message_bytes=largest) as emitter,
            terminal.counting("sent back", count) as advance,
            stop_on_signals(stop.set),
        ):
            for number, (place, message) in enumerate(messages):
                if stop.wait(max(0.0, started + number / rate - time.monotonic())):
                    raise KeyboardInterrupt
                advance(1)
                if message.size > limits[message.topic]:
                    most = limits[message.topic]
                    typer.echo(f"{place} not sent: {message.size:,} bytes, and its topic takes {most:,}")
                    continue
                emitter.send(message.topic, message.key, message.value, message.headers)
                emitter.flush()
                sent, at = sent + 1, place
    except (KeyboardInterrupt, TagstreamError):
        typer.echo(
            f"stopped: {sent} of {count} sent back, the last is {at}. The same command sends all again.", err=True
        )
        raise
    return sent


def _choice(
    reasons: Sequence[str] | None, wants: Sequence[str] | None, since: str | None, until: str | None, key: str | None
) -> Choice:
    from schemas.dead_letter import REASONS
    from workers.assembly.replay import Choice

    return Choice(
        known("--reason", reasons, REASONS),
        _known_results(wants),
        None if since is None else moment_ms(since),
        None if until is None else moment_ms(until),
        key,
    )


def _known_results(wants: Sequence[str] | None) -> frozenset[str]:
    """The values of `--want`. Added kinds need not be installed here. Raises Misconfigured: one is misspelt."""
    from schemas.options import WANTS
    from schemas.result_kinds import is_role_name
    from workers.models.result_kinds import added_kinds

    names = (*WANTS, *added_kinds())
    for name in wants or ():
        if name not in names and (closest(name, names) or not is_role_name(name)):
            raise Misconfigured(f"--want {name}: known are {', '.join(names)}")
    return frozenset(wants or ())


def known(option: str, given: Sequence[str] | None, names: Sequence[str]) -> frozenset[str]:
    """The values of an option, all of them among these names. Raises Misconfigured: one is unknown."""
    for name in given or ():
        if name not in names:
            raise Misconfigured(f"{option} {name}: known are {', '.join(names)}")
    return frozenset(given or ())


def row_of(dead_letter: DeadLetterRecord) -> tuple[str, ...]:
    told, record = dead_letter.told, dead_letter.record
    cells = record.place, terminal.moment(record.timestamp_ms), told.place, dead_letter.key
    return *cells, ", ".join(dead_letter.causes), told.failures[0].detail


def _summary(dead_letter: DeadLetterRecord) -> dict[str, Any]:
    return {"dead_letter": dead_letter.record.place, "key": dead_letter.key, **dead_letter.told.model_dump(mode="json")}


def _original(dead_letter: DeadLetterRecord) -> dict[str, Any]:
    from schemas.dead_letter import strip_own_headers, with_nulls

    record = dead_letter.record
    headers = strip_own_headers(record.headers)
    key, value, headers = with_nulls(record.key, record.value, headers, dead_letter.told.nulls)
    return {
        "key": _text(key),
        "headers": [[name, _text(content)] for name, content in headers],
        "value": "(not kept)" if dead_letter.told.truncated and not value else _json_or_text(value),
    }


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")


def _json_or_text(content: bytes | None) -> Any:
    """Parsed JSON within a worker's limits, else text: parsing may take forty times the memory."""
    from pydantic_core import from_json

    from schemas.dialects.words import excess

    if content is None or excess(content) is not None:
        return _text(content)
    try:
        return from_json(content)
    except ValueError:
        return _text(content)
