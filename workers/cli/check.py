"""`tagstream check`: checks settings and dependencies, and names remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from workers.cli import terminal
from workers.errors import DONE, exit_code

if TYPE_CHECKING:
    from workers.assembly.findings import Finding


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
    from workers.environment import read_here, shown
    from workers.settings import Settings

    settings, defaults = read_here(), shown(Settings())
    named = {name: value for name, value in shown(settings).items() if everything or value != defaults[name]}
    findings: list[Finding] = []
    if as_json:
        findings += findings_of(settings)
        told = [{"about": each.about, "ok": each.error is None, "says": each.says} for each in findings]
        typer.echo(terminal.as_json({"settings": named, "findings": told}))
    else:
        console, table = terminal.console(), Table("setting", "value", box=None, pad_edge=False)
        for name, value in named.items():
            table.add_row(name, terminal.text(value))
        table.add_row()
        console.print(table)
        for finding in findings_of(settings):
            findings.append(finding)
            mark = terminal.text("✓", "green") if finding.error is None else terminal.text("✗", "red")
            console.print(mark, terminal.text(f"{finding.about}: {finding.says}", lines=True))
    wrong = (exit_code(finding.error) for finding in findings if finding.error is not None)
    raise typer.Exit(min(wrong, default=DONE))
