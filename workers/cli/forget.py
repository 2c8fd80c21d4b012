"""`tagstream forget`: retracts images and purges what is remembered of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import NOTHING_YET, GoOption
from workers.errors import FOUND, Misconfigured, Rejected

if TYPE_CHECKING:
    from workers.backends.kafka import KafkaPublisher
    from workers.backends.result_cache import RedisResultCache
    from workers.backends.s3.store import MinioObjectStore
    from workers.retag.forgetting import Forgetting, Subjects
    from workers.settings import Settings
    from workers.types import Partition

COUNTED: Final = ("retractions", "tombstones", "withdrawals")
_SHOWN = 5
_LINE_BYTES = 4_096
_LOOKS = 1_000
"""Images that the store is asked about before the next are."""


def forget(
    subject: Annotated[
        str | None, typer.Argument(metavar="BUCKET/KEY", help="The image, as `subject` of its enriched event names it.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="BUCKET/PREFIX", help="All images that begin so, as far as the topics know them.")
    ] = "",
    listed: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Images, one BUCKET/KEY a line; -: stdin.")
    ] = None,
    go: GoOption = False,
    keep_object: Annotated[
        bool,
        typer.Option(
            "--keep-object",
            help="Also images that the store still has. Their next event brings them back, as one of a bulk "
            "`tagstream emit`: give it the same list by --except.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only search for what is left, once it is compacted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Forget images: retract their outcomes, withdraw corrections, purge cache and index.

    Publishes a retraction and a tombstone for each image; interrupted, the same command goes on. Remove the objects
    first. The report names what is beyond reach. --verify exits with 1 if it finds a name in the enriched topic, in
    the index that TAGSTREAM_INDEX_DSN names, in Redis or in TAGSTREAM_STATE_DIR.

    [dim]One image:[/]   tagstream forget photos/2026/cat.jpg --go
    [dim]A folder:[/]    tagstream forget --prefix photos/2026/ --go
    [dim]Any left?[/]    tagstream forget photos/2026/cat.jpg --verify
    """
    from workers.assembly import forget_reach

    chosen = _chosen(subject, prefix, listed)
    settings = needed("kafka_servers", "s3_endpoint")
    found = forget_reach.search(settings, chosen, terminal.counting) if verify else None
    report = found if found is not None else Forget(settings, chosen, keep_object=keep_object).run(go=go)
    if as_json:
        typer.echo(terminal.as_json(report, indent=2))
    else:
        for line in _lines(report) if found is None else forget_reach.lines(found):
            terminal.say(line)
    if found and found["found"]:
        raise typer.Exit(FOUND)


def _chosen(subject: str | None, prefix: str, listed: Path | None) -> Subjects:
    """
    Raises:
        Misconfigured: not exactly one of the three is given, or it names no image.
    """
    from workers.retag.forgetting import Subjects

    if (subject is not None) + bool(prefix) + (listed is not None) != 1:
        raise Misconfigured("say what to forget: BUCKET/KEY, --prefix BUCKET/PREFIX or --list FILE")
    if listed is not None:
        return Subjects(subjects_in(listed))
    _require_subject(*(("the image", subject) if subject is not None else ("--prefix", f"{prefix}*")))
    return Subjects(frozenset({subject} if subject is not None else ()), prefix)


def subjects_in(listed: Path) -> frozenset[str]:
    """Subjects that a file names, one BUCKET/KEY a line.

    Raises:
        Misconfigured: a line is no BUCKET/KEY, or the file can't be read or names no image.
    """
    from workers.cli.correct import lines_of

    lines = enumerate(lines_of(listed, _LINE_BYTES), 1)
    named = {number: line.decode(errors="replace") for number, line in lines if line}
    if not named:
        raise Misconfigured(f"{listed} names no image")
    for number, name in named.items():
        _require_subject(f"{listed}, line {number}", name)
    return frozenset(named.values())


def _require_subject(where: str, name: str) -> None:
    bucket, _, key = name.partition("/")
    if not bucket or not key:
        raise Misconfigured(f"{where}: {name!r} is no BUCKET/KEY")


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['subjects']:9,} images have records in the topics; {report['due']:,} not forgotten before"
    yield from (f"{report[name]:9,} {name}" for name in COUNTED if report[name])
    yield from (f"{count:9,} rows in {part}" for part, count in report["rows"].items())
    yield "no cache was looked at" if report["entries"] is None else f"{report['entries']:9,} entries of Redis"
    if report["present"]:
        yield f"{report['present']:9,} images are still in the store, such as {', '.join(report['first_present'])}"
    for each in report["beyond"]:
        end = "no retention ends it" if each["until"] is None else f"gone by {each['until']}"
        yield f"beyond reach: {each['place']}: {end} ({each['why']})"
    if report["finished"]:
        yield "done"
    else:
        yield "interrupted: the same command goes on" if report["go"] else NOTHING_YET


class Forget:
    """One run, with its clients."""

    def __init__(self, settings: Settings, chosen: Subjects, *, keep_object: bool) -> None:
        self._settings = settings
        self._chosen = chosen
        self._keep_object = keep_object
        self._positions: dict[str, Mapping[Partition, int]] = {}
        self._present = 0
        self._first_present: list[str] = []

    def run(self, *, go: bool) -> dict[str, Any]:
        """What is due, or was done.

        Raises:
            Misconfigured: the store still has an image, or a setting is wrong.
            Unavailable: a dependency does not answer.
            Broken: another run has taken the transactional id.
        """
        from workers.assembly.clients import own_publisher
        from workers.assembly.forget_reach import beyond, opened_cache, other_places
        from workers.retag.forgetting import Forgetting

        settings = self._settings
        topics = [topic for topic in (settings.output_topic, settings.corrections_topic) if topic]
        visited, _ = other_places()
        rows = {part: count for each in visited for part, count in each.search(self._chosen).items()}
        with ExitStack() as cleanup:
            forgetting = cleanup.enter_context(Forgetting(self._chosen, settings.corrections_topic))
            cache = cleanup.enter_context(opened_cache(settings))
            publisher = None
            if go:  # its transactional id ends what an earlier run left open, before anything is read
                publisher = cleanup.enter_context(closing(own_publisher(settings, f"{settings.group}-forget", topics)))
            self._read(forgetting)
            counts, finished = self._look(forgetting), False
            if publisher is not None:
                self._require_absent()
                counts, finished = self._publish(publisher, forgetting, counts["due"])
            for each in visited if finished else ():
                each.forget(self._chosen, forgetting.newest())
            purges = cache is not None and (finished or not go)
            return {
                "subjects": forgetting.subjects,
                **{name: counts[name] for name in ("due", *COUNTED)},
                "rows": rows,
                "entries": self._purge(cache, forgetting, remove=go) if purges and cache is not None else None,
                "present": self._present,
                "first_present": self._first_present,
                "go": go,
                "finished": finished,
                "beyond": [each._asdict() for each in beyond(settings, keep_object=self._keep_object)],
            }

    def _read(self, forgetting: Forgetting) -> None:
        """Pass on what the topics have since the last call."""
        from workers.assembly.topic_reading import read_topic

        settings = self._settings
        takes = {settings.output_topic: forgetting.take, settings.corrections_topic: forgetting.take_correction}
        for topic, take in takes.items():
            if topic:
                keep = partial(self._positions.__setitem__, topic)
                at = self._positions.get(topic)
                read_topic(settings, topic, take, at=at, keep=keep, counting=terminal.counting)

    def _look(self, forgetting: Forgetting) -> Counter[str]:
        """Count what is due, and ask the store for the images."""
        counts = Counter[str]()

        def due() -> Iterator[str]:
            for subject, messages in forgetting.due():
                counts.update(forgetting.count(messages))
                yield subject

        subjects = due()
        if not self._keep_object:
            self._ask(iter(self._chosen.named) if self._chosen.named else subjects)
        for _ in subjects:
            pass
        return counts

    def _ask(self, subjects: Iterator[str]) -> None:
        """
        Raises:
            Unavailable: the store does not tell.
        """
        from workers.assembly.clients import object_store

        threads = self._settings.fetch_threads
        with (
            closing(object_store(self._settings)) as store,
            ThreadPoolExecutor(threads) as pool,
            terminal.counting("looked for", None) as advance,
        ):
            while some := list(islice(subjects, _LOOKS)):
                there = pool.map(partial(_is_there, store), some)
                found = [each for each, is_there in zip(some, there, strict=True) if is_there]
                self._present += len(found)
                self._first_present += found[: _SHOWN - len(self._first_present)]
                advance(len(some))

    def _require_absent(self) -> None:
        if self._present:
            raise Misconfigured(
                f"the store still has {counted(self._present, 'image')} of these, such as "
                f"{', '.join(self._first_present)}: remove the objects first, or add --keep-object"
            )

    def _publish(self, publisher: KafkaPublisher, forgetting: Forgetting, due: int) -> tuple[Counter[str], bool]:
        """What was published, and whether that is all."""
        from workers.retag.forgetting import forget
        from workers.retag.passes import Bounds
        from workers.service.process import stop_on_signals

        stop = threading.Event()
        bounds = Bounds(self._settings.transaction_outcomes, self._settings.transaction_bytes, stop.is_set)
        with terminal.counting("images", due) as advance, stop_on_signals(stop.set):
            published = forget(forgetting, partial(self._read, forgetting), publisher, bounds, advance)
        return published, not stop.is_set()

    def _purge(self, cache: RedisResultCache, forgetting: Forgetting, *, remove: bool) -> int:
        """Remove the cache entries of the subjects and their contents; returns how many.

        Sources go last: after a kill they tell the next run the contents.
        """
        from workers.backends.scoped_cache import scope
        from workers.pipeline.cache_entries import content_of, subject_prefixes
        from workers.retag.forgetting import SHA256

        ours, count = scope(self._settings.cache_namespace), 0
        prefixes = [ours + each for each in subject_prefixes(self._settings.s3_endpoint)]

        def of_subjects(name: str) -> bool:
            return any(name.startswith(each) and self._chosen.has(name[len(each) :]) for each in prefixes)

        def of_contents(name: str) -> bool:
            return forgetting.has_content(content_of(name[len(ours) :]))

        for names in cache.names(prefixes[0]):
            for found in cache.hashes([name for name in names if of_subjects(name)]):
                for value in found.values():
                    forgetting.note_contents(SHA256.findall(value))
        with terminal.counting("entries looked at", None) as advance:
            for are_wanted in (of_contents, of_subjects):
                for names in cache.names(ours):
                    wanted = [name for name in names if are_wanted(name)]
                    count += cache.remove(wanted) if remove else len(wanted)
                    advance(len(names))
        return count


def _is_there(store: MinioObjectStore, subject: str) -> bool:
    bucket, _, key = subject.partition("/")
    try:
        return store.find(bucket, key) is not None
    except Rejected:  # no object can have this name
        return False
