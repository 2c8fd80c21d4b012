"""All commands under one name, and what becomes of their errors: a sentence and an exit code, never a stack trace."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from workers import __version__
from workers.cli import (
    audit,
    bench,
    capacity,
    check,
    correct,
    dead_letters,
    demo,
    emit,
    init,
    models,
    run,
    schemas,
    settings,
    shadow,
    skip,
    stack,
    status,
    tag,
    tail,
    terminal,
    topics,
    train,
)
from workers.cli.exit_codes import INTERRUPTED, OUR_BUG, exit_code
from workers.errors import Misconfigured, TagstreamError, Unavailable

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
"""No command is to blame for a disk that takes no more."""

app = typer.Typer(
    name="tagstream",
    help="Tags and captions every image of an image store, exactly once: image events come in from Kafka, enriched "
    "events go out.\n\nSee it at work on this machine: [bold]tagstream demo[/]. Every setting is an environment "
    "variable: [bold]tagstream settings[/] lists them, [bold]tagstream check[/] tries them.\n\n"
    "[dim]From a file of settings:[/]  tagstream init, and then tagstream --env-file tagstream.env run\n\n"
    "[dim]Completion by Tab:[/]        tagstream --install-completion",
    epilog="Exit codes: 0 done · 1 a bug of ours, or a check that found something · 2 wrong settings or arguments · "
    "3 a broken device or a stall · "
    "4 a dependency (Kafka, object storage, Redis) does not answer",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(demo.demo)
app.add_typer(stack.app, name="stack")
app.command()(tag.tag)
app.command()(emit.emit)
app.command()(tail.tail)
app.command()(correct.correct)
app.command()(init.init)
app.command()(check.check)
app.command()(audit.audit)
app.command()(status.status)
app.command()(bench.bench)
app.command()(capacity.capacity)
app.command()(settings.settings)
app.add_typer(topics.app, name="topics")
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(skip.skip)
app.add_typer(models.app, name="models")
app.add_typer(shadow.app, name="shadow")
app.add_typer(train.app, name="train")
app.add_typer(schemas.app, name="schemas")


def _let_help_flow(commands: typer.Typer) -> None:
    """Help is wrapped for the terminal at hand, not for our source: a paragraph is one line. Labelled examples stay."""
    for command in commands.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        flowing = (each if each.startswith("[dim]") else " ".join(each.splitlines()) for each in paragraphs)
        command.help = "\n\n".join(flowing)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _let_help_flow(group.typer_instance)


_let_help_flow(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tagstream {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    env_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take variables from this file of NAME=value lines, as if they were exported. What the environment "
            "sets itself goes before it.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log all there is, as TAGSTREAM_LOG_LEVEL=debug; by every command.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log warnings and errors alone, as TAGSTREAM_LOG_LEVEL=warning.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options before the command."""
    if env_file is not None:
        from workers.cli import env_file as file

        file.load(env_file)
    if verbose and quiet:
        raise Misconfigured("-q and -v are opposites: keep one")
    if verbose or quiet:
        os.environ["TAGSTREAM_LOG_LEVEL"] = "debug" if verbose else "warning"
    if verbose:
        _log_everything()


def _log_everything() -> None:
    """Also where the command is not `run`, which begins its log anew once its settings are known to be right."""
    from workers.service.logs import start_logging
    from workers.settings import read, secret_values

    secrets: list[str] = []
    with suppress(Misconfigured):  # the command will say it, if it reads settings at all
        secrets = secret_values(read(os.environ))
    start_logging("debug", "text", secrets=secrets)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line to its end.

    Returns:
        The exit code.
    """
    try:
        command_tree()(list(arguments), prog_name="tagstream")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except TagstreamError as error:
        return _complain(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            terminal.forget_output()
            return _complain(Misconfigured(f"what the command writes has no place: {error.strerror}"))
        logger.exception("this is a bug of ours, please report it with the lines below")
        return OUR_BUG
    return 0


@cache
def command_tree() -> Callable[..., object]:
    """Made once a process: typer reads every signature of every command for it."""
    return typer.main.get_command(app)


def _complain(error: TagstreamError) -> int:
    from workers.service.logs import flush_logs, is_json

    flush_logs()
    advice = error.advice if isinstance(error, Unavailable) else ""
    lines = [*str(error).splitlines(), *advice.splitlines()]
    if is_json():
        logger.error("%s", "\n".join(lines))
    else:
        console = terminal.console(stderr=True)
        for line in lines:
            console.print(terminal.text(line, "red"))
    return exit_code(error)
