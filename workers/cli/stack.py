"""`tagstream stack`: the servers of the demo alone, to work against."""

from __future__ import annotations

import typer

from workers.cli.testing_wheel import needs_testing_wheel

app = typer.Typer(help="Real Kafka, S3 and Redis servers on this machine, to work against.", no_args_is_help=True)


@app.command()
def up() -> None:
    """Start the servers, print the environment to export, and stay until Ctrl-C.

    Standard output is fit for a shell; in a second terminal paste the `export` lines, then:

    tagstream emit ~/Pictures --bucket photos && tagstream run --until-idle 10
    """
    with needs_testing_wheel("stack up"):
        from workers.local.stack_up import stack_up

    raise typer.Exit(stack_up())


@app.callback()
def _group() -> None:
    """Makes `up` a subcommand although it is the only one."""
