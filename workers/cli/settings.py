"""`tagstream settings`: lists every variable with default and meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from workers.cli import terminal


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a variable each.")] = False,
) -> None:
    """List every TAGSTREAM_… variable with its default and its meaning.

    [bold]tagstream check[/] shows their present values and whether they work.
    """
    if as_json:
        for document in _documents():
            typer.echo(terminal.as_json(document))
    else:
        console = terminal.console()
        console.print(_table(console.width))


def _documents() -> Iterator[dict[str, Any]]:
    from workers.environment import FIELDS, default_text, group_of, is_secret, variable

    for field, info in FIELDS.items():
        yield {
            "variable": variable(field),
            "group": group_of(field),
            "default": default_text(field),
            "meaning": info.description or "",
            "secret": is_secret(field),
        }


def _table(width: int) -> Table:
    return terminal.listing(("variable", "default", "meaning"), _rows(), 2, width)


def _rows() -> Iterator[Sequence[str | Text]]:
    from workers.environment import FIELDS, default_text, group_of, is_secret, variable

    group = ""
    for field, info in FIELDS.items():
        if group_of(field) != group:
            group = group_of(field)
            yield ("",)
            yield (Text(group, "bold"),)
        also = " or …_FILE" if is_secret(field) else ""
        yield f"{variable(field)}{also}", default_text(field), (info.description or "").replace("`", "")
