"""`tagstream export`: outcomes as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.errors import Misconfigured

app = typer.Typer(help="Write what was tagged into files for other programs.", no_args_is_help=True)


@app.command("parquet")
def parquet(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    every: Annotated[bool, typer.Option("--all", help="All outcomes, not only the newest of each image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Files, rows and next offsets as JSON.")] = False,
) -> None:
    """Write the enriched topic into Parquet files, one for each partition: each image's newest outcome.

    Needs TAGSTREAM_KAFKA_SERVERS, and pyarrow: pip install pyarrow. Reads the committed records. The files appear when
    all are whole; FOLDER needs room for twice their size. A removed image is a row with gone = true. Records that can't
    be read are counted, logged with their coordinates, and passed over. The columns are in docs/guide/index-search.md.

    [dim]Into a folder:[/]           tagstream export parquet outcomes

    [dim]Count tags with DuckDB:[/]  duckdb -c "select tag.name, count(*) from (select unnest(tags) as tag
    from 'FOLDER/*.parquet') group by all order by 2 desc"
    """
    settings = needed("kafka_servers")
    try:
        from tagstream_index.exporting import export
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        lacking = "Parquet files need pyarrow, the extra `parquet` of tagstream-index: pip install 'pyarrow>=26'"
        raise Misconfigured(lacking) from None

    done = export(settings, folder, every=every, counting=terminal.counting)
    if as_json:
        terminal.show_json(done)
        return
    files, wrong = counted(len(done["files"]), "file"), done["unreadable"]
    terminal.say(f"{counted(done['rows'], 'row')} in {files} in {folder}")
    if wrong:
        terminal.note(f"{counted(wrong, 'record')} can't be read, and {'is' if wrong == 1 else 'are'} left out")
