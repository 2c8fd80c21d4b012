"""`tagstream stack`: the servers of the demo alone, to work against."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli import terminal

if TYPE_CHECKING:
    from tagstream_testing.local.detached import Detached

app = typer.Typer(help="Real Kafka, S3 and Redis servers on this machine, to work against.", no_args_is_help=True)


@app.command()
def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the servers answer, and leave them running.")
    ] = False,
    state: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the servers, print the environment to export, and stay until Ctrl-C.

    Standard output is fit for a shell; in a second terminal paste the `export` lines, then:

    tagstream emit ~/Pictures --bucket photos && tagstream run --until-idle 10

    With --detach there can be one stack for each TAGSTREAM_STATE_DIR; where it is up already, its environment is
    printed.

    [dim]In one terminal:[/]  eval "$(tagstream stack up --detach)"
    """
    if detach:
        detached = _detached()
        with terminal.console(stderr=True).status("Waiting for the servers; the first time they are downloaded"):
            started = detached.up()
        environment = detached.environment()
        _print_exports(environment)
        _remark(
            "The servers are up; `tagstream stack down` ends them."
            if started
            else "A detached stack was up already; these are its servers."
        )
        return
    from tagstream_testing.local.stack_up import stack_up

    raise typer.Exit(stack_up(state))


@app.command()
def env(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Print the environment of the detached stack, to export.

    [dim]In this shell:[/]  eval "$(tagstream stack env)"
    [dim]As a file:[/]      tagstream stack env > stack.env && tagstream --env-file stack.env check
    """
    environment = _detached().environment()
    if as_json:
        typer.echo(terminal.as_json(dict(environment)))
    else:
        _print_exports(environment)


@app.command()
def down() -> None:
    """End the detached stack with its servers, their data and files.

    [dim]And start again:[/] tagstream stack down && tagstream stack up --detach
    """
    ended = _detached().down()
    _remark("The servers have ended." if ended else "No detached stack was up.")


def _detached() -> Detached:
    from tagstream_testing.local.detached import Detached
    from workers.environment import read_here

    return Detached(read_here().state_dir)


def _print_exports(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _remark(text: str) -> None:
    """On standard error, since standard output is for a shell."""
    terminal.console(stderr=True).print(terminal.text(text, "dim"))
