"""Progress lines and checks that the commands share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from workers.cli import terminal
from workers.cli.terminal import note

if TYPE_CHECKING:
    from tagstream_train.data.images import NamedBuckets
    from tagstream_train.record import Tell


SetOption = Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="The folder to write; must not exist.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON.")]
HookOption = Annotated[
    list[str] | None,
    typer.Option(help="Report to another tracker: module:function (docs/guide/training.md).", show_default=False),
]
BucketOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket",
        metavar="BUCKET",
        help="Another bucket that images may be read from, beside TAGSTREAM_BUCKETS. May be given again.",
        show_default=False,
    ),
]
GroupsOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The CSV's column of bursts or videos, which no split divides.")
]
WorkOption = Annotated[
    Path | None, typer.Option(help="Checkpoints and curves; by default beside the bundle.", show_default=False)
]


def existing(help: str, *names: str, folder: bool = False) -> Any:  # noqa: A002  # typer's name for it
    """An option that names a file, or a folder, which must exist."""
    return typer.Option(*names, exists=True, dir_okay=folder, file_okay=not folder, help=help, show_default=False)


ArgumentOfSet = Annotated[Path, typer.Argument(metavar="SET", help="A training set.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images at once.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads that decode images.")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where models run.")]
PrecisionOption = Annotated[Literal["fp32", "bf16", "fp16", "int8"], typer.Option(help="How models compute.")]

_EVERY_S = 10.0
"""Between lines where there is no terminal."""


@contextmanager
def progress() -> Iterator[Tell]:
    """Show a bar for each activity, or lines; gone at the end."""
    if not terminal.console(stderr=True).is_terminal:
        yield _Lines().tell
        return
    with terminal.bars() as tell:
        yield tell


class _Lines:
    """Prints a line every few seconds for each activity."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._console = terminal.console(stderr=True)

    def tell(self, doing: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began = self._began.setdefault(doing, now)
        if now - self._said.get(doing, began) < _EVERY_S:
            return
        self._said[doing] = now
        left = f", {(now - began) * (total - done) / done:.0f} s left" if total and done else ""
        self._console.print(terminal.text(f"{doing}: {done:,}{f' of {total:,}' if total else ''}{left}"))


def command_of(run: Callable[[Any], None]) -> Callable[..., None]:
    """A Typer command whose parameters are the fields of the function's options."""
    kind = get_type_hints(run)["options"]
    hints = get_type_hints(kind, include_extras=True)

    def command(**given: Any) -> None:
        run(kind(**given))

    command.__doc__ = run.__doc__
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=_default(each), annotation=hints[each.name])
            for each in fields(kind)
        ]
    )
    return command


def _default(each: Field[Any]) -> Any:
    return Parameter.empty if each.default is MISSING else each.default


def note_skipped(skipped: Mapping[str, str], where: str = "") -> None:
    """Note how many images were skipped, and why the first."""
    if skipped:
        from tagstream_train.data.importer import skipped_line

        note(skipped_line(skipped, where))


def store(buckets: list[str] | None) -> NamedBuckets | None:
    """The settings' object store, limited to its buckets and these."""
    from tagstream_train.data.images import NamedBuckets
    from workers.assembly.clients import object_store
    from workers.environment import read_here

    settings = read_here()
    if not settings.s3_endpoint:
        return None
    return NamedBuckets(object_store(settings), {*settings.buckets, *(buckets or ())})
