"""`tagstream check`: checks settings and dependencies, and names remedies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from workers.cli import terminal
from workers.errors import DONE, exit_code

if TYPE_CHECKING:
    from workers.assembly.findings import Finding
    from workers.settings import Settings


def check(
    everything: Annotated[bool, typer.Option("--all", help="Show all settings. Default: only changed ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Check the settings, dependencies and bundles, and say what is wrong.

    Shows the settings with secrets masked, and asks Kafka, the object store, Redis and the bundles. Changes nothing.
    Exits with 0 when a worker could start, with 2 when a setting is wrong, and with 4 when only a dependency does not
    answer.
    """
    from workers.assembly.findings import findings_of
    from workers.environment import read_here

    settings = read_here()
    named = _named(settings, everything)
    findings: list[Finding] = []
    if as_json:
        findings += findings_of(settings)
        told = [{"about": each.about, "ok": each.error is None, "says": each.says} for each in findings]
        typer.echo(terminal.as_json({"settings": named, "findings": told}))
        raise typer.Exit(_verdict(findings))
    console = terminal.console()
    console.print(_settings_table(named))
    for finding in findings_of(settings):
        findings.append(finding)
        mark = terminal.text("✓", "green") if finding.error is None else terminal.text("✗", "red")
        console.print(mark, terminal.text(f"{finding.about}: {finding.says}", lines=True))
    raise typer.Exit(_verdict(findings))


def _named(settings: Settings, everything: bool) -> dict[str, str]:
    from workers.environment import shown
    from workers.settings import Settings as Defaults

    defaults = shown(Defaults())
    return {name: value for name, value in shown(settings).items() if everything or value != defaults[name]}


def _settings_table(named: Mapping[str, str]) -> Table:
    table = Table("setting", "value", box=None, pad_edge=False)
    for name, value in named.items():
        table.add_row(name, terminal.text(value))
    table.add_row()
    return table


def _verdict(findings: list[Finding]) -> int:
    return min((exit_code(finding.error) for finding in findings if finding.error is not None), default=DONE)
