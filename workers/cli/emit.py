"""`tagstream emit`: sends events for the images of a folder or a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted, printable
from workers.assembly.needs import needed
from workers.assembly.progress import Pace, require_rate
from workers.cli import terminal
from workers.cli.terminal import DryRunOption
from workers.errors import MISCONFIGURED, Misconfigured
from workers.files import subjects_in

if TYPE_CHECKING:
    from workers.assembly.emitting import Emission
    from workers.assembly.image_sources import ImageSource
    from workers.settings import Settings

_WOULD = {
    "uploaded": "would be uploaded",
    "replaced": "would replace other content",
    "there already": "is there already",
    "listed": "is in the bucket",
}
"""A dry run's words for an image, by a run's action."""
_WIDEST = max(map(len, _WOULD.values()))


def emit(
    folder: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, help="Images to upload first. Default: the bucket's own objects."),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Default: the only one of TAGSTREAM_BUCKETS. With a folder, a missing bucket is made."
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="P", help="Beginning of the keys.")] = "",
    topic: Annotated[
        str | None, typer.Option(help="Default: the first of TAGSTREAM_INPUT_TOPICS without :background.")
    ] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Send to the first background topic: these images wait for all others.")
    ] = False,
    after: Annotated[
        str, typer.Option(metavar="KEY", help="Begin behind this key, which an interrupted run names.")
    ] = "",
    excepted: Annotated[
        Path | None,
        typer.Option(
            "--except",
            metavar="FILE",
            help="Leave these images out: one BUCKET/KEY a line, as `forget --list` takes it.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other content under an image's key.")] = False,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Most events a second.", show_default=False)] = None,
    dry_run: DryRunOption = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON document: what was sent; or with --dry-run one a line, an image each."),
    ] = False,
) -> None:
    """Send an event for each image of a folder or bucket.

    Images of a folder are uploaded first. An image whose content is in the bucket already gets its event without an
    upload. An image whose key holds other content is left out and the exit code is 2, unless --overwrite is given. An
    image that was forgotten comes back if it is still in the bucket: name it in --except.

    [dim]Upload and tag a folder:[/]    tagstream emit ~/Pictures --bucket photos --prefix mine/
    [dim]Tag what is there already:[/]  tagstream emit --bucket photos --prefix 2024/
    [dim]After all other work:[/]       tagstream emit --bucket photos --background
    [dim]Not what was forgotten:[/]     tagstream emit --bucket photos --except forgotten.txt
    [dim]Only look:[/]                  tagstream emit ~/Pictures --bucket photos --dry-run
    """
    from workers.assembly.emitting import Emission
    from workers.assembly.image_sources import OTHER_CONTENT, BucketSource, FolderSource

    settings = needed("kafka_servers", "s3_endpoint")
    require_rate(rate)
    left_out = frozenset[str]() if excepted is None else subjects_in(excepted)
    to_bucket, to_topic = _bucket(settings, bucket), _topic(settings, topic, background=background)
    source: ImageSource = BucketSource(to_bucket, prefix, left_out)
    if folder is not None:
        most = int(settings.max_object_bytes)
        source = FolderSource(folder, to_bucket, prefix, max_bytes=most, overwrite=overwrite, excepted=left_out)
    emission = Emission(settings, source, to_topic, Pace(rate), after)
    if dry_run:
        _rehearse(emission, to_topic, as_json=as_json)
    else:
        sent = emission.run(terminal.counting, lambda line: typer.echo(line, err=True))
        told = {"topic": to_topic, "sent": sent}
        typer.echo(terminal.as_json(told) if as_json else f"{counted(sent, 'event')} sent to {to_topic}")
    for line in emission.summary():
        typer.echo(line, err=True)
    if source.left_out[OTHER_CONTENT]:
        raise typer.Exit(MISCONFIGURED)


def _bucket(settings: Settings, named: str | None) -> str:
    if named is not None:
        if settings.buckets and named not in settings.buckets:
            raise Misconfigured(f"a worker with these settings refuses {named!r}: add it to TAGSTREAM_BUCKETS")
        return named
    if len(settings.buckets) != 1:
        raise Misconfigured("which bucket? Name it with --bucket, or name just one in TAGSTREAM_BUCKETS")
    return settings.buckets[0]


def _topic(settings: Settings, named: str | None, *, background: bool) -> str:
    if not background:
        return named or settings.live_topic
    if named is not None:
        raise Misconfigured(f"--background or --topic {named}: give one of them")
    if not settings.background_topics:
        raise Misconfigured(
            "--background: there is no background topic; write TOPIC:background in TAGSTREAM_INPUT_TOPICS"
        )
    return settings.background_topics[0]


def _rehearse(emission: Emission, topic: str, *, as_json: bool) -> None:
    """Print what a run would do with each image."""
    events = 0
    for image, outcome in emission.rehearse():
        events += 1
        line = {"bucket": image.bucket, "key": image.key, "bytes": image.size, "outcome": outcome}
        shown = f"{_WOULD[outcome]:<{_WIDEST}}  {image.size:>12,}  {printable(image.key)}"
        typer.echo(terminal.as_json(line) if as_json else shown)
    typer.echo(f"{counted(events, 'event')} would be sent to {topic}; nothing was done", err=True)
