"""`tagstream demo`: the whole pipeline at work on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    photos: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of your own images. By default some photographs."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end, until Ctrl-C.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Where to write the page. By default tagstream-demo.html here."),
    ] = None,
) -> None:
    """See it: real Kafka, S3 and Redis servers start here, photographs go in, tags come out.

    The servers come from Python wheels, listen on free loopback ports and leave nothing behind. A page with the
    images, their tags and captions is written at the end.

    [dim]With your own images:[/]  tagstream demo --photos ~/Pictures/holiday
    """
    from tagstream_testing.local.demo import run_demo

    raise typer.Exit(run_demo(photos, keep, page))
