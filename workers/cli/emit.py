"""`tagstream emit`: sends events for the images of a folder or a bucket."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.printable import counted, printable
from workers.assembly.lists import subjects_in
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import DryRunOption
from workers.errors import MISCONFIGURED, Misconfigured, TagstreamError

if TYPE_CHECKING:
    from workers.assembly.image_sources import Dialect, ImageSource, StoredImage
    from workers.assembly.pace import Pace, ResumePoint
    from workers.backends.kafka import KafkaEmitter
    from workers.backends.s3.store import MinioObjectStore
    from workers.settings import Settings
    from workers.types import Message

_WOULD = {
    "uploaded": "would be uploaded",
    "replaced": "would replace other content",
    "there already": "is there already",
    "listed": "is in the bucket",
}
"""A dry run's words for an image, by a run's action."""
_SLOWEST = 0.001
"""Least events a second: no system sleeps for ever."""
_WIDEST = max(map(len, _WOULD.values()))


def emit(
    folder: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, help="Images to upload first. Default: the bucket's own objects."),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Default: the only one of TAGSTREAM_BUCKETS. With a folder, a missing bucket is made.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="P", help="Beginning of the keys.")] = "",
    topic: Annotated[str | None, typer.Option(help="Default: the first of TAGSTREAM_INPUT_TOPICS.")] = None,
    dialect: Annotated[Literal["own", "s3"], typer.Option(help="Format of the events.")] = "own",
    again: Annotated[bool, typer.Option("--again", help="Start over after an interrupted run.")] = False,
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

    Images of a folder are uploaded first. After an interruption the same command goes on where it stopped. An image
    whose content is in the bucket already gets its event without an upload. An image whose key holds other content is
    left out and the exit code is 2, unless --overwrite is given. An image that was forgotten comes back if it is still
    in the bucket: name it in --except.

    [dim]Upload and tag a folder:[/]    tagstream emit ~/Pictures --bucket photos --prefix mine/
    [dim]Tag what is there already:[/]  tagstream emit --bucket photos --prefix 2024/
    [dim]Gently, beside other work:[/]  tagstream emit --bucket photos --rate 50
    [dim]Not what was forgotten:[/]     tagstream emit --bucket photos --except forgotten.txt
    [dim]Only look:[/]                  tagstream emit ~/Pictures --bucket photos --dry-run
    """
    from workers.assembly.image_sources import OTHER_CONTENT, BucketSource, FolderSource
    from workers.assembly.pace import Pace, require_rate

    settings = needed("kafka_servers", "s3_endpoint")
    require_rate(rate)
    left_out = frozenset[str]() if excepted is None else subjects_in(excepted)
    to_bucket, to_topic = _bucket(settings, bucket), topic or settings.input_topics[0]
    place = _place(settings, folder, to_bucket, prefix, to_topic, dialect)
    if not dry_run:
        place.require_writable()
    if again and not dry_run:
        place.forget()
    source: ImageSource = BucketSource(to_bucket, prefix, left_out)
    if folder is not None:
        most = int(settings.max_object_bytes)
        source = FolderSource(folder, to_bucket, prefix, max_bytes=most, overwrite=overwrite, excepted=left_out)
    emission = Emission(settings, source, to_topic, dialect, place, Pace(rate), again=again)
    if dry_run:
        emission.rehearse(as_json=as_json)
    else:
        sent = emission.run()
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


def _place(settings: Settings, folder: Path | None, bucket: str, prefix: str, topic: str, dialect: str) -> ResumePoint:
    """The resume point of this command, whatever its --rate and --overwrite."""
    from workers.assembly.pace import ResumePoint

    source = str(folder.resolve()) if folder is not None else ""
    command = (source, settings.s3_endpoint, bucket, prefix, topic, dialect, *settings.kafka_servers)
    return ResumePoint(settings.state_dir, command)


class Emission:
    """One `emit`: uploads, sends and notes the place, batch by batch in key order.

    Args:
        again: begin at the beginning, whatever `place` holds.
    """

    def __init__(
        self,
        settings: Settings,
        source: ImageSource,
        topic: str,
        dialect: Dialect,
        place: ResumePoint,
        pace: Pace,
        *,
        again: bool = False,
    ) -> None:
        self._settings = settings
        self._source = source
        self._topic = topic
        self._dialect = dialect
        self._place = place
        self._pace = pace
        self._again = again
        self._begun = False
        self._sent = 0
        self._outcomes: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def run(self) -> int:
        """Send the images that were not sent before.

        Returns:
            How many events were sent now.
        """
        from workers.assembly.clients import security, servers
        from workers.backends.kafka import KafkaEmitter

        last = self._begin()
        with (
            closing(self._store()) as store,
            KafkaEmitter(servers(self._settings), security=security(self._settings)) as emitter,
        ):
            try:
                self._send(store, emitter, last)
            except (KeyboardInterrupt, TagstreamError):
                self._print_how_to_go_on()
                raise
        self._place.forget()
        return self._sent

    def rehearse(self, *, as_json: bool) -> None:
        """Print what `run` would do with each image, and do nothing."""
        last = self._begin()
        with closing(self._store()) as store:
            for image, outcome in self._source.images(store, last, try_only=True):
                self._count(image, outcome)
                line = {"bucket": image.bucket, "key": image.key, "bytes": image.size, "outcome": outcome}
                shown = f"{_WOULD[outcome]:<{_WIDEST}}  {image.size:>12,}  {printable(image.key)}"
                typer.echo(terminal.as_json(line) if as_json else shown)
        events = counted(sum(self._outcomes.values()), "event")
        typer.echo(f"{events} would be sent to {self._topic}; nothing was done", err=True)

    def summary(self) -> list[str]:
        """Lines with the number of files by action."""
        done = [
            f"{outcome}: {self._outcomes[outcome]:,} ({counted(self._bytes[outcome], 'byte')})"
            for outcome in ("uploaded", "replaced", "there already")
            if self._outcomes[outcome]
        ]
        return [*done, *self._source.left_out.lines()]

    def _begin(self) -> str:
        """Require the topic; returns the key to continue after."""
        from workers.assembly.clients import security, servers
        from workers.backends.kafka import require_topics

        last = "" if self._again else self._place.last()
        if last:
            typer.echo(f"going on after {printable(last)} (--again starts over)", err=True)
        require_topics(servers(self._settings), [self._topic], security=security(self._settings))
        return last

    def _store(self) -> MinioObjectStore:
        from workers.assembly.clients import object_store

        return object_store(self._settings)

    def _send(self, store: MinioObjectStore, emitter: KafkaEmitter, last: str) -> None:
        from workers.assembly.image_sources import BATCH, batches, event_for, total

        def event(image: StoredImage) -> Message:
            self._pace.wait()
            return event_for(image, self._topic, self._dialect)

        with (
            terminal.counting("events sent", lambda: total(self._source, store, last)) as advance,
            closing(self._source.images(store, last, try_only=False)) as images,
        ):
            for batch in batches(images, self._pace.batch(BATCH)):
                self._begun = True
                self._sent += emitter.emit(event(image) for image, _ in batch)
                self._place.note(batch[-1][0].key)
                for image, outcome in batch:
                    self._count(image, outcome)
                advance(len(batch))

    def _count(self, image: StoredImage, outcome: str) -> None:
        self._outcomes[outcome] += 1
        self._bytes[outcome] += image.size

    def _print_how_to_go_on(self) -> None:
        from workers.assembly.image_sources import BATCH

        if not self._begun:  # such as a prefix without objects: nothing to continue
            return
        last = self._place.last()
        where = f", up to {printable(last)}" if last else ""
        typer.echo(
            f"stopped: {counted(self._sent, 'event')} sent to {self._topic}{where}. The same command goes on "
            f"from there (up to {BATCH} events may come twice); --again starts over.",
            err=True,
        )
