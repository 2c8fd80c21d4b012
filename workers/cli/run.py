"""`tagstream run`: one worker in this process, or several in processes of their own."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from workers.assembly.needs import needed


def run(
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto", help="Processes that share the work, instead of TAGSTREAM_WORKERS.", show_default=False
        ),
    ] = None,
    until_idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Stop after so many idle seconds, counted once the worker is ready: for backfills and tests.",
        ),
    ] = None,
) -> None:
    """Read image events, tag and caption the images, and publish the results.

    Needs TAGSTREAM_KAFKA_SERVERS, TAGSTREAM_S3_ENDPOINT and TAGSTREAM_BUCKETS; [bold]tagstream check[/] tries them.
    TAGSTREAM_ROLES adds results, such as the text in pictures.
    SIGTERM or Ctrl-C drains: work in progress is finished and committed. A second one ends at once, which loses nothing
    either. Health and metrics are on TAGSTREAM_HTTP_PORT: /livez, /startupz, /readyz, /metrics.

    [dim]Start one here:[/]      tagstream run
    [dim]Work off a backlog:[/]  tagstream run --until-idle 30
    """
    # Until `one_worker.set_apart_what_is_imported`: imports make 250,000 objects and 1 MB of garbage, and to collect it
    # takes a sixth of a start.
    gc.disable()
    try:
        _run(until_idle, {} if workers is None else {"TAGSTREAM_WORKERS": workers})
    finally:
        gc.enable()


def _run(until_idle_s: float | None, overrides: dict[str, str]) -> None:
    from workers.environment import wants_json_log
    from workers.service.logs import start_logging

    if wants_json_log():
        start_logging("info", "json")  # what is wrong with the settings is a line of JSON too
    settings = needed("kafka_servers", "s3_endpoint", "buckets", worker=True, **overrides)
    if settings.workers == 1:
        from workers.cli.one_worker import work

        work(settings, until_idle_s)
        return
    from workers.cli.run_several import run_several

    if code := run_several(settings, until_idle_s):
        raise typer.Exit(code)
