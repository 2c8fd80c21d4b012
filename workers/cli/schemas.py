"""`tagstream schemas`: exports JSON Schemas and AsyncAPI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

import schemas
from workers.cli import terminal
from workers.errors import Misconfigured

_PUBLISHED = Path(schemas.__file__).with_name("published")

app = typer.Typer(help="Export JSON Schemas and AsyncAPI of all messages.", no_args_is_help=True)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the documents; made if missing.")],
    as_json: Annotated[bool, typer.Option("--json", help="The written files as one JSON document.")] = False,
) -> None:
    """Write the JSON Schemas of events and added results, and AsyncAPI. tagstream schemas export ./schemas"""
    from workers.models.result_kinds import added_kinds

    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = [shutil.copyfile(path, folder / path.name) for path in sorted(_PUBLISHED.glob("*.json"))]
        for name, kind in added_kinds().items():
            made.append(folder / f"result-{name}.json")
            schema = kind.result.model_json_schema(mode="serialization")
            made[-1].write_text(terminal.as_json(schema, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{error.filename or folder} can't be written: {error.strerror}") from error
    if as_json:
        typer.echo(terminal.as_json({"files": list(map(str, made))}))
        return
    for path in made:
        typer.echo(path)


@app.callback()
def _group() -> None:
    """Keep `export` a subcommand although it is the only one."""
