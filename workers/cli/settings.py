"""`tagstream settings`: every variable, its default and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from workers.cli import terminal


def settings(
    fill: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Bring the tables of settings and metrics between this Markdown file's markers up to date, instead.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a variable each.")] = False,
) -> None:
    """List every TAGSTREAM_… variable with its default and its meaning.

    What they are set to, and whether that works, is [bold]tagstream check[/].
    """
    for path in fill or []:
        path.write_text(fill_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    if fill:
        return
    if as_json:
        for document in _documents():
            typer.echo(terminal.as_json(document))
    else:
        console = terminal.console()
        console.print(_table(console.width))


def fill_tables(page: str) -> str:
    """The page with each table between its markers brought up to date; what has no markers stays as it is."""
    from workers import metrics, settings

    for name, table in (("settings", settings.markdown()), ("metrics", metrics.markdown())):
        head, begin, rest = page.partition(f"<!-- {name}:begin -->")
        _, end, tail = rest.partition(f"<!-- {name}:end -->")
        if end:
            page = f"{head}{begin}\n{table}{end}{tail}"
    return page


def _documents() -> Iterator[dict[str, Any]]:
    from workers.settings import FIELDS, default_text, group_of, is_secret, variable

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
    from workers.settings import FIELDS, default_text, group_of, is_secret, variable

    group = ""
    for field, info in FIELDS.items():
        if group_of(field) != group:
            group = group_of(field)
            yield ("",)
            yield (Text(group, "bold"),)
        also = " or …_FILE" if is_secret(field) else ""
        yield f"{variable(field)}{also}", default_text(field), (info.description or "").replace("`", "")
