"""`tagstream audit`: proves that every record has its outcomes once and in order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import moment_ms
from workers.errors import FOUND

if TYPE_CHECKING:
    from workers.audit.report import AuditReport
    from workers.settings import Settings

_SHOWN = 20


def audit(
    begin: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="[[TOPIC:]PARTITION:]OFFSET",
            help="First offset to audit, of one input partition or of all; repeatable. Default: everything."
            " If every offset names a partition, the other partitions are left out.",
        ),
    ] = None,
    end: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="[[TOPIC:]PARTITION:]OFFSET", help="The offset after the last one, likewise."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin at this time: 2026-01-31, 2026-01-31T08:00Z, or 90m, 12h, 7d ago."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End at this time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Prove from the topics that every record has its outcomes exactly once.

    Reads the outputs, then the input: committed records only, in no group. Records that TAGSTREAM_GROUP has not
    committed are not judged; an outcome of them is a fault. Records that the topics can no longer prove are counted
    with the reason. Exits with 1 when an outcome is missing, double, out of order or of no record, or (with
    TAGSTREAM_DELIVERY=exactly_once) of an uncommitted one; with 0 otherwise, also when nothing was judged.

    [dim]All that there is:[/]      tagstream audit
    [dim]The last day:[/]           tagstream audit --since 24h
    [dim]A part of partition 3:[/]  tagstream audit --from 3:40000 --to 3:50000
    """
    from workers.assembly.auditing import Auditing

    settings = needed("kafka_servers")
    began = time.monotonic()
    since_ms, until_ms = (None if text is None else moment_ms(text) for text in (since, until))
    given = (begin or (), end or (), since_ms, until_ms)
    report = Auditing(settings, *given, counting=terminal.counting, note=terminal.note).run()
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(terminal.as_json({**report.as_json(), "seconds": round(seconds, 3)}, indent=2))
    else:
        _print(report, settings, seconds)
    if not report.proved:
        raise typer.Exit(FOUND)


def _print(report: AuditReport, settings: Settings, seconds: float) -> None:
    from workers.audit.report import FAULTS, REASONS

    console = terminal.console()
    read = report.records + report.outcomes + report.remade + report.other + report.strange
    rate = read / max(seconds, 0.001)
    console.print(
        f"{counted(report.records, 'record')} with {counted(report.events, 'event')} of "
        f"{counted(len(report.ranges), 'partition')}, {counted(report.outcomes, 'outcome')}; {seconds:.1f} s, "
        f"{rate:,.0f} records read a second"
    )
    beside = {
        "in flight: beyond what the group has committed": report.in_flight,
        "remade from an earlier outcome, or repeating it": report.remade,
        "in the output topics, of other input": report.other,
        "in the output topics, no outcome": report.strange,
        "in the output topic, tombstones": report.tombstones,
    }
    for what, count in beside.items():
        if count:
            console.print(f"{count:9,} {what}")
    for reason, count in report.unverifiable.items():
        console.print(f"{count:9,} unverifiable ({reason}): {REASONS[reason]}", style="yellow")
    for fault in FAULTS:
        if count := report.counts[fault]:
            console.print(f"{count:9,} {fault}", style="red")
            for finding in report.findings[fault][:_SHOWN]:
                console.print(terminal.text(f"          {finding}"))
            if count > _SHOWN:
                console.print(f"          and {count - _SHOWN:,} more; --json names the first 1,000")
    if report.proved:
        if report.records:
            console.print("every audited record has its outcomes exactly once, in order", style="green")
        else:
            console.print("nothing was audited: the group has committed no record of this range", style="yellow")
    elif report.counts["doubled"] and settings.delivery == "at_least_once":
        console.print("TAGSTREAM_DELIVERY=at_least_once: duplicates after a failure are no fault")
