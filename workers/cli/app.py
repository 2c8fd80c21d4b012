"""All commands under one name; an error becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from workers import __version__
from workers.errors import (
    INTERRUPTED,
    OUR_BUG,
    READER_LEFT,
    Misconfigured,
    TagstreamError,
    Unavailable,
    exit_code,
    not_installed,
)

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""No command is to blame for a disk that takes no more, or a path that this user may not have or can't be."""

_HELP = ["-h", "--help"]
_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}

COMMANDS = (
    "run",
    "demo",
    "stack",
    "tag",
    "emit",
    "tail",
    "correct",
    "retag",
    "forget",
    "check",
    "audit",
    "status",
    "bench",
    "capacity",
    "settings",
    "topics",
    "dead-letters",
    "models",
    "compare",
    "index",
    "search",
    "export",
    "train",
    "schemas",
)
"""In the order of the help. Each is a module here, with a function of its name or a group's `app`."""

ELSEWHERE = {
    "demo": "tagstream-testing",
    "stack": "tagstream-testing",
    "index": "tagstream-index",
    "search": "tagstream-index",
    "export": "tagstream-index",
    "train": "tagstream-train",
}
"""Commands of other packages, by the entry points `tagstream.commands`."""


def _let_help_flow(commands: typer.Typer) -> None:
    """Join each paragraph of the help to one line; labelled examples stay."""
    for command in commands.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        flowing = (each if each.startswith("[dim]") else " ".join(each.splitlines()) for each in paragraphs)
        command.help = "\n\n".join(flowing)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _let_help_flow(group.typer_instance)


class _Commands(TyperGroup):
    """Explains misplaced global options."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            unknown, wrong = getattr(error, "option_name", None), cast(Any, error)
            if any(unknown in option.opts for option in self.params):
                wrong.message += f". It goes before the command: tagstream {unknown} … {ctx.invoked_subcommand}"
            raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tagstream {__version__}")
        raise typer.Exit


def _globals(
    env_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of NAME=value lines to take variables from, as if exported. The environment's own variables "
            "override it.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log debug lines too, as TAGSTREAM_LOG_LEVEL=debug does.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log only warnings and errors, as TAGSTREAM_LOG_LEVEL=warning does.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options before the command."""
    if env_file is not None:
        from workers.assembly.env_file import load_env_file

        load_env_file(env_file)
    if verbose and quiet:
        raise Misconfigured("-q and -v are opposites: keep one")
    if verbose or quiet:
        os.environ["TAGSTREAM_LOG_LEVEL"] = "debug" if verbose else "warning"
    if verbose:
        _log_everything()


def _log_everything() -> None:
    """Log at all levels; `run` sets up its own log."""
    from workers.environment import all_secrets, read_here
    from workers.service.logs import start_logging

    secrets = all_secrets()
    with suppress(Misconfigured):  # the command will say it, if it reads settings at all
        secrets = all_secrets(read_here())
    start_logging("debug", "text", secrets=secrets)


def application(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The application with these commands; only their modules are imported."""
    made = typer.Typer(
        name="tagstream",
        cls=_Commands,
        help="Tags and captions every image of an image store, exactly once: image events come in from Kafka, enriched "
        "events go out.\n\nSee it at work on this machine: [bold]tagstream demo[/]. Every setting is an environment "
        "variable: [bold]tagstream settings[/] lists them, [bold]tagstream check[/] tries them.\n\n"
        "[dim]A file of settings:[/]       tagstream settings --template > tagstream.env\n\n"
        "[dim]With it:[/]                  tagstream --env-file tagstream.env run\n\n"
        "[dim]Completion by Tab:[/]        tagstream --install-completion",
        epilog="Exit codes: 0 done · 1 a bug of ours, or a check that found something · 2 wrong settings or "
        "arguments · 3 a broken device or a stall · 4 a dependency (Kafka, object storage, Redis) does not answer · "
        "130 ended by Ctrl-C, or in a drain by a second one",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": _HELP},
    )
    made.callback()(_globals)
    for name in names:
        command = _command(name)
        if command is None:
            made.command(name, context_settings=_ANY_ARGUMENTS)(_absent(name))
        elif isinstance(command, typer.Typer):
            made.add_typer(command, name=name)
        else:
            made.command(name)(command)
    _let_help_flow(made)
    return made


def _command(name: str) -> Any:
    """A command's function, or a group's `Typer`; None if its package is not installed."""
    if name in ELSEWHERE:
        return next((point.load() for point in entry_points(group="tagstream.commands", name=name)), None)
    own = name.replace("-", "_")
    module = import_module(f"workers.cli.{own}")
    return getattr(module, "app", None) or getattr(module, own)


def _absent(name: str) -> Callable[..., None]:
    package = ELSEWHERE[name]

    def absent() -> None:
        raise not_installed(package)

    absent.__doc__ = f"Not installed: it is in the package {package}."
    return absent


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line to its end; returns the exit code."""
    return exit_code_of(lambda: _run(arguments))


def exit_code_of(work: Callable[[], int]) -> int:
    """Work's exit code; an error becomes a sentence and its code."""
    try:
        return work()
    except BrokenPipeError:
        from workers.cli.terminal import forget_output

        forget_output()
        return READER_LEFT
    except KeyboardInterrupt:
        return INTERRUPTED
    except TagstreamError as error:
        return _complain(error)
    except Exception as error:
        if isinstance(error, OSError) and (wrong := _said_of_files(error)):
            logger.debug("traceback", exc_info=True)
            return _complain(Misconfigured(wrong))
        logger.exception("this is a bug of ours, please report it with the lines below")
        return OUR_BUG


def _run(arguments: Sequence[str]) -> int:
    """The exit code, once all output is written.

    Raises BrokenPipeError: the reader of the output left. Typer and rich would exit with 1.
    """
    try:
        # Other commands need no import.
        name = arguments[0] if arguments and arguments[0] in COMMANDS else None
        command_tree(name)(list(arguments), prog_name="tagstream")
        code = 0
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    return code


def _said_of_files(error: OSError) -> str:
    """A sentence about a file or a full disk; empty for other errors."""
    name = None if error.filename is None else Path(os.fsdecode(error.filename))
    if error.errno in _REFUSED and name is not None:
        return f"{name} can't be used: {error.strerror}"
    if error.errno not in _FULL:
        return ""
    if name is not None:
        return f"{name} has no place: {error.strerror}"
    from workers.cli.terminal import forget_output

    forget_output()
    return f"what the command writes has no place: {error.strerror}"


@cache
def command_tree(name: str | None = None) -> Callable[..., object]:
    """The tree of one command, or of all. Cached: typer reads every signature."""
    tree = typer.main.get_command(application(COMMANDS if name is None else (name,)))
    _show_flags_without_value(tree)
    return tree


def _show_flags_without_value(command: Any) -> None:
    """Remove what typer's help shows behind flags, as in `--go <bool>`."""
    for option in command.get_params(typer.Context(command, help_option_names=_HELP)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for each in getattr(command, "commands", {}).values():
        _show_flags_without_value(each)


def _complain(error: TagstreamError) -> int:
    from workers.service.logs import flush_logs, is_json

    flush_logs()
    advice = error.advice if isinstance(error, Unavailable) else ""
    lines = [*str(error).splitlines(), *advice.splitlines()]
    if is_json():
        logger.error("%s", "\n".join(lines))
    else:
        from workers.cli.terminal import console, text

        screen = console(stderr=True)
        for line in lines:
            screen.print(text(line, "red"))
    return exit_code(error)
