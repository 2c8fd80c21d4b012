"""`tagstream emit`: ask for images, from a folder that is uploaded first or from what a bucket already holds."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from schemas.printable import printable
from workers.cli.needs import needed
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.backends.object_store import MinioObjectStore
    from workers.cli.events import Dialect, StoredImage
    from workers.settings import Settings

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
"""Endings by which a folder's files are taken for images. Of a bucket all is taken: the worker's TAGSTREAM_KEY_GLOBS
chooses there."""

BATCH = 100
"""Events that are acknowledged before the place is noted; so many may be sent twice after a kill."""
UPLOADS = 8
"""Uploads at the same time."""


def emit(
    folder: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, help="Images to upload first. Without it: what the bucket holds."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="NAME", help="[default: the only one of TAGSTREAM_BUCKETS]")
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="P", help="Keys begin with this.")] = "",
    topic: Annotated[str | None, typer.Option(help="[default: the first of TAGSTREAM_INPUT_TOPICS]")] = None,
    dialect: Annotated[str, typer.Option(metavar="own|s3", help="How the events are written.")] = "own",
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew, even where an earlier run was interrupted.")
    ] = False,
) -> None:
    """Send an event for each image of a folder (uploading it) or of a bucket (as it is).

    Interrupted, it goes on where it stopped when the same command is given again.

    [dim]Upload and tag a folder:[/]   tagstream emit ~/Pictures --bucket photos --prefix mine/
    [dim]Tag what is there already:[/]  tagstream emit --bucket photos --prefix 2024/
    """

    settings = needed("kafka_servers", "s3_endpoint")
    if dialect not in ("own", "s3"):
        raise Misconfigured(f"--dialect {dialect}: it is own or s3")
    emission = Emission(
        settings, folder, _bucket(settings, bucket), prefix, topic or settings.input_topics[0], _dialect(dialect)
    )
    emission.place.require_writable()
    if again:
        emission.place.forget()
    sent = emission.run()
    typer.echo(f"{sent} events are in {emission.topic}")


def _dialect(name: str) -> Dialect:
    return "s3" if name == "s3" else "own"


def _bucket(settings: Settings, named: str | None) -> str:
    if named is not None:
        if settings.buckets and named not in settings.buckets:
            raise Misconfigured(f"a worker with these settings refuses {named!r}: add it to TAGSTREAM_BUCKETS")
        return named
    if len(settings.buckets) != 1:
        raise Misconfigured("which bucket? Name it with --bucket, or name just one in TAGSTREAM_BUCKETS")
    return settings.buckets[0]


class ResumePoint:
    """How far a command came, in a file of TAGSTREAM_STATE_DIR that is named after what was asked for."""

    def __init__(self, folder: Path, command: Iterable[str]) -> None:
        name = hashlib.sha256(json.dumps(list(command)).encode()).hexdigest()[:16]
        self._path = folder / "emit" / f"{name}.json"

    def last(self) -> str:
        """The last key whose event is acknowledged; empty: begin at the beginning."""
        from pydantic_core import from_json

        try:
            return str(from_json(self._path.read_bytes())["last"])
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._unusable("read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"{self._path} can't be read ({error}); --again begins anew") from error

    def note(self, key: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".new")
            scratch.write_text(json.dumps({"last": key}), encoding="utf-8")
            scratch.replace(self._path)
        except OSError as error:
            raise self._unusable("written", error) from error

    def forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("removed", error) from error

    def require_writable(self) -> None:
        """Find out before anything is sent.

        Raises:
            Misconfigured: the place could not be noted.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            raise self._unusable("written", error) from error

    def _unusable(self, how: str, error: OSError) -> Misconfigured:
        return Misconfigured(
            f"TAGSTREAM_STATE_DIR: {self._path} can't be {how}: {error.strerror}. "
            "Name a folder that this user may write."
        )


Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of this size; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


class Emission:
    """One `emit`: images in key order, in batches: upload, send, wait for the acknowledgement, note the place."""

    def __init__(
        self, settings: Settings, folder: Path | None, bucket: str, prefix: str, topic: str, dialect: Dialect
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._bucket = bucket
        self._prefix = prefix
        self._dialect: Literal["own", "s3"] = dialect
        self.topic = topic
        source = str(folder.resolve()) if folder is not None else ""
        command = (source, settings.s3_endpoint, bucket, prefix, topic, dialect, *settings.kafka_servers)
        self.place = ResumePoint(settings.state_dir, command)

    def run(self) -> int:
        """Send all that was not sent before.

        Returns:
            How many events were sent now.
        """
        from workers.backends.kafka import KafkaEmitter, require_topics
        from workers.cli.clients import object_store, security, servers
        from workers.cli.events import event_for
        from workers.cli.terminal import counting

        last = self.place.last()
        if last:
            typer.echo(f"going on after {printable(last)} (--again begins anew)", err=True)
        sent = 0
        require_topics(servers(self._settings), [self.topic], security=security(self._settings))
        with (
            closing(object_store(self._settings)) as store,
            KafkaEmitter(servers(self._settings), security=security(self._settings)) as emitter,
            counting("events sent", self._total(last)) as advance,
        ):
            for images in batches(self._images(store, last), BATCH):
                sent += emitter.emit(event_for(image, self.topic, self._dialect) for image in images)
                self.place.note(images[-1].key)
                advance(len(images))
        self.place.forget()
        return sent

    def _total(self, last: str) -> int | None:
        """Known for a folder; a bucket is counted only by listing it."""
        return None if self._folder is None else len(self._files(last))

    def _images(self, store: MinioObjectStore, last: str) -> Iterator[StoredImage]:
        from workers.cli.events import StoredImage

        if self._folder is None:
            for found in store.list(self._bucket, self._prefix, last):
                if not found.key.endswith("/"):
                    yield StoredImage(self._bucket, found.key, found.size, found.etag)
            return
        store.make_bucket(self._bucket)
        with ThreadPoolExecutor(UPLOADS) as pool:
            for files in batches(self._files(last), BATCH):
                yield from pool.map(self._uploader(store), files)

    def _files(self, last: str) -> list[tuple[str, Path]]:
        """(key, file) of the folder's images behind `last`, in key order as a store lists them."""
        assert self._folder is not None
        files = [path for path in self._folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()]
        keyed = [(self._prefix + path.relative_to(self._folder).as_posix(), path) for path in files]
        if not keyed:
            raise Misconfigured(f"{self._folder} holds no images ({', '.join(sorted(IMAGES))})")
        return sorted((pair for pair in keyed if pair[0].encode() > last.encode()), key=lambda pair: pair[0].encode())

    def _uploader(self, store: MinioObjectStore) -> Callable[[tuple[str, Path]], StoredImage]:
        from workers.cli.events import StoredImage

        def upload(item: tuple[str, Path]) -> StoredImage:
            key, path = item
            try:
                body = path.read_bytes()
            except OSError as error:
                raise Misconfigured(f"{path} can't be read: {error.strerror}") from error
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            return StoredImage(self._bucket, key, len(body), store.put(self._bucket, key, body, kind))

        return upload
