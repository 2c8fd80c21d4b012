"""`tagstream forget`: takes everything back that was said of images, and what is remembered of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from workers.cli import terminal
from workers.cli.needs import needed
from workers.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from workers.backends.kafka import ReadRecord
    from workers.backends.result_cache import RedisResultCache
    from workers.backends.s3.store import MinioObjectStore
    from workers.cli.forget_reach import Beyond
    from workers.ports import Publisher
    from workers.retag.forgetting import Counts, Forgetting, Subjects
    from workers.settings import Settings
    from workers.types import Partition

_SHOWN = 5
_LINE_BYTES = 4_096
_REDIS_S = 5.0
"""For one answer of Redis; a worker waits less."""
_LOOKS = 1_000
"""Images that the store is asked about before the next are."""


def forget(
    subject: Annotated[
        str | None, typer.Argument(metavar="BUCKET/KEY", help="The image, as `subject` of its enriched event names it.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="BUCKET/PREFIX", help="All images of which the topic knows that begin so.")
    ] = "",
    listed: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Images, one BUCKET/KEY a line; -: stdin.")
    ] = None,
    go: Annotated[bool, typer.Option("--go", help="Do it. Without this, only say what would be done.")] = False,
    keep_object: Annotated[
        bool,
        typer.Option("--keep-object", help="Also images that the store still has. Their next event brings them back."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Forget images: retract their outcomes, and purge what is remembered of them.

    Publishes a retraction and a tombstone for each image, purges its entries of Redis and withdraws its corrections.
    Remove the objects first. Run it again after any interruption: it goes on, and publishes nothing twice. The report
    says what is beyond its reach.

    [dim]What would be done:[/]  tagstream forget photos/2026/cat.jpg
    [dim]To do it:[/]            tagstream forget photos/2026/cat.jpg --go
    [dim]A whole folder:[/]      tagstream forget --prefix photos/2026/
    """
    chosen = _chosen(subject, prefix, listed)
    settings = needed("kafka_servers", "s3_endpoint")
    report = Forget(settings, chosen, keep_object=keep_object).run(go=go)
    if as_json:
        typer.echo(terminal.as_json(asdict(report), indent=2))
    else:
        for line in report.lines():
            terminal.say(line)


def _chosen(subject: str | None, prefix: str, listed: Path | None) -> Subjects:
    """
    Raises:
        Misconfigured: not exactly one of the three is given, or it names no image.
    """
    from workers.cli.correct import lines_of
    from workers.retag.forgetting import Subjects

    if (subject is not None) + bool(prefix) + (listed is not None) != 1:
        raise Misconfigured("say what to forget: BUCKET/KEY, --prefix BUCKET/PREFIX or --list FILE")
    if prefix:
        if not prefix.partition("/")[0] or "/" not in prefix:
            raise Misconfigured(f"--prefix {prefix}: it must begin with a bucket and a slash")
        return Subjects(prefix=prefix)
    if subject is not None:
        return Subjects(frozenset([_named(subject, "the image")]))
    named = set()
    for number, line in enumerate(lines_of(listed or Path("-"), _LINE_BYTES), 1):
        if line:
            named.add(_named(line.decode(errors="replace"), f"{listed}, line {number}"))
    if not named:
        raise Misconfigured(f"{listed} names no image")
    return Subjects(frozenset(named))


def _named(subject: str, where: str) -> str:
    bucket, _, key = subject.partition("/")
    if not bucket or not key:
        raise Misconfigured(f"{where}: {subject!r} is no BUCKET/KEY")
    return subject


@dataclass(slots=True)
class ForgetReport:
    """What a run would do, or did.

    Args:
        entries: of Redis; None: no Redis is set.
        present: images that the store still has, and the first of them.
        finished: nothing is left to do here.
    """

    go: bool
    counts: Counts
    entries: int | None = None
    present: int = 0
    first_present: list[str] = field(default_factory=list)
    finished: bool = False
    beyond: list[Beyond] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        counts = self.counts
        yield f"{counts.subjects:9,} images of which the topics have records"
        told = {
            "retractions": counts.retractions,
            "tombstones": counts.tombstones,
            "withdrawals of corrections": counts.withdrawals,
            "entries of Redis": self.entries or 0,
            f"images that the store still has, such as {', '.join(self.first_present)}: "
            "--go refuses them without --keep-object": self.present,
        }
        yield from (f"{count:9,} {what}" for what, count in told.items() if count)
        if self.entries is None:
            yield "TAGSTREAM_REDIS_URL is not set: no cache is purged"
        yield from map(str, self.beyond)
        if self.finished:
            yield "done"
        else:
            yield "interrupted: the same command goes on" if self.go else "nothing has been changed yet: --go does it"


class Forget:
    """One run, with its clients."""

    def __init__(self, settings: Settings, chosen: Subjects, *, keep_object: bool) -> None:
        self._settings = settings
        self._chosen = chosen
        self._keep_object = keep_object
        self._positions: dict[str, Mapping[Partition, int]] = {}

    def run(self, *, go: bool) -> ForgetReport:
        """
        Raises:
            Misconfigured: the store still has an image, or a setting is wrong.
            Unavailable: a dependency does not answer.
            Broken: another run has taken the transactional id.
        """
        from workers.cli.forget_reach import beyond
        from workers.retag.forgetting import Counts, Forgetting

        settings = self._settings
        with ExitStack() as cleanup:
            forgetting = Forgetting(self._chosen, settings.output_topic, settings.corrections_topic)
            cleanup.enter_context(forgetting)
            # The transactional id is taken before the first reading: what an earlier run left open is ended then.
            publisher = cleanup.enter_context(closing(self._publisher())) if go else None
            cache = cleanup.enter_context(self._cache())
            self._read(forgetting)
            report = ForgetReport(go, Counts(), beyond=beyond(settings))
            self._look(forgetting, report)
            if publisher is None:
                report.counts = forgetting.counts
            elif report.present:
                raise Misconfigured(_refusal(report))
            else:
                self._publish(publisher, forgetting, report)
            if cache is not None and (report.finished or not go):
                report.entries = self._purge(cache, forgetting, remove=go)
        return report

    def _publisher(self) -> Publisher:
        from workers.backends.kafka import KafkaPublisher
        from workers.cli.clients import CONNECT_S, security, servers
        from workers.types import NO_MEMBERSHIP

        settings = self._settings
        group = f"{settings.group}-forget"
        return KafkaPublisher(
            servers(settings),
            group,
            group,
            membership=lambda: NO_MEMBERSHIP,
            output_topics=[topic for topic in (settings.output_topic, settings.corrections_topic) if topic],
            security=security(settings),
            transaction_timeout_s=settings.kafka_transaction_timeout_s,
            connect_timeout_s=CONNECT_S,
        )

    @contextmanager
    def _cache(self) -> Iterator[RedisResultCache | None]:
        from workers.cli.clients import redis

        server = redis(self._settings.model_copy(update={"cache_timeout_s": _REDIS_S}))
        if server is None:
            yield None
            return
        with closing(server):
            server.check()
            yield server

    def _read(self, forgetting: Forgetting) -> None:
        """Pass on what the topics have since the last call."""
        self._read_on(self._settings.output_topic, forgetting.take)
        if self._settings.corrections_topic:
            self._read_on(self._settings.corrections_topic, forgetting.take_correction)

    def _read_on(self, topic: str, take: Callable[[ReadRecord], None]) -> None:
        from workers.cli.topic_reading import read_topic

        def keep(positions: Mapping[Partition, int]) -> None:
            self._positions[topic] = positions

        read_topic(self._settings, topic, take, at=self._positions.get(topic), keep=keep)

    def _look(self, forgetting: Forgetting, report: ForgetReport) -> None:
        """Ask the store for the images that are to be forgotten."""
        from workers.cli.clients import object_store

        due = (subject for subject, _ in forgetting.due())
        subjects = iter(self._chosen.named) if self._chosen.named else due
        if not self._keep_object:
            threads = self._settings.fetch_threads
            with closing(object_store(self._settings)) as store, ThreadPoolExecutor(threads) as pool:
                find = partial(_is_there, store)
                with terminal.counting("images looked for", None) as advance:
                    while some := list(islice(subjects, _LOOKS)):
                        found = [subject for subject, there in zip(some, pool.map(find, some), strict=True) if there]
                        report.present += len(found)
                        report.first_present += found[: _SHOWN - len(report.first_present)]
                        advance(len(some))
        for _ in due:  # counts the rest
            pass

    def _publish(self, publisher: Publisher, forgetting: Forgetting, report: ForgetReport) -> None:
        from workers.retag.forgetting import Bounds, forget
        from workers.service.process import stop_on_signals

        stopping = threading.Event()
        most, most_bytes = self._settings.transaction_outcomes, self._settings.transaction_bytes
        with (
            terminal.counting("images retracted", forgetting.counts.due) as advance,
            stop_on_signals(stopping.set),
        ):
            bounds = Bounds(most, most_bytes, stopping.is_set)
            report.counts = forget(forgetting, lambda: self._read(forgetting), publisher, bounds, advance)
        report.finished = not stopping.is_set()

    def _purge(self, cache: RedisResultCache, forgetting: Forgetting, *, remove: bool) -> int:
        """Remove the cache entries of the subjects and their contents; returns how many.

        Sources go last: after a kill they tell the next run the contents.
        """
        from workers.backends.scoped_cache import scope
        from workers.pipeline.cache_entries import content_of, subject_prefixes
        from workers.retag.forgetting import SHA256

        ours = scope(self._settings.cache_namespace)
        prefixes = [ours + each for each in subject_prefixes(self._settings.s3_endpoint)]

        def of_subjects(name: str) -> bool:
            return any(name.startswith(each) and self._chosen.has(name[len(each) :]) for each in prefixes)

        def of_contents(name: str) -> bool:
            return forgetting.has_content(content_of(name[len(ours) :]))

        with terminal.counting("entries looked at", None) as advance:
            for names in cache.names(prefixes[0]):
                for found in cache.hashes([name for name in names if of_subjects(name)]):
                    for value in found.values():
                        forgetting.note_contents(SHA256.findall(value))
            count = 0
            for are_wanted in (of_contents, of_subjects):
                for names in cache.names(ours):
                    wanted = [name for name in names if are_wanted(name)]
                    count += cache.remove(wanted) if remove else len(wanted)
                    advance(len(names))
        return count


def _is_there(store: MinioObjectStore, subject: str) -> bool:
    """Whether the store has an object of this name.

    Raises:
        Unavailable: it does not tell.
    """
    bucket, _, key = subject.partition("/")
    try:
        return store.find(bucket, key) is not None
    except Rejected:  # no object can have this name
        return False


def _refusal(report: ForgetReport) -> str:
    return (
        f"the store still has {counted(report.present, 'image')} of these, such as {', '.join(report.first_present)}: "
        "remove the objects first, or add --keep-object"
    )
