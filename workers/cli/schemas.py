"""`tagstream schemas`: exports JSON Schemas and AsyncAPI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Export JSON Schemas and AsyncAPI of all messages.", no_args_is_help=True)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the documents; made if missing.")],
) -> None:
    """Write each event's JSON Schema and one AsyncAPI document.

    tagstream schemas export ./schemas
    """
    from schemas.publish import documents
    from workers.errors import Misconfigured

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in documents().items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise Misconfigured(f"{error.filename or folder} can't be written: {error.strerror}") from error
    for name in documents():
        typer.echo(folder / name)


@app.callback()
def _group() -> None:
    """Keep `export` a subcommand although it is the only one."""
