"""The commands of `tagstream index`."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Keep what was tagged in PostgreSQL. docs/guide/index-search.md is the guide.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """A group, also while it has one command."""
