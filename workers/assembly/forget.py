"""Forgets images: retracts them and purges their stored results."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from schemas.printable import counted
from workers.assembly.clients import object_store, own_publisher
from workers.assembly.forget_reach import beyond, opened_cache, other_places
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import read_topic
from workers.backends.kafka import KafkaPublisher
from workers.backends.result_cache import RedisResultCache
from workers.backends.s3.store import MinioObjectStore
from workers.backends.scoped_cache import scope
from workers.errors import Misconfigured, Rejected
from workers.pipeline.cache_entries import content_of, subject_prefixes
from workers.republish.forgetting import SHA256, Forgetting, Subjects, forget
from workers.republish.passes import Bounds
from workers.service.process import stop_on_signals
from workers.settings import Settings
from workers.types import Partition

COUNTED: Final = ("retractions", "tombstones", "withdrawals")
_SHOWN = 5
_LOOKS = 1_000
"""Images that the store is asked about before the next are."""


@dataclass(eq=False)
class Forget:
    """One run, with its clients."""

    settings: Settings
    chosen: Subjects
    keep_object: bool
    counting: Counting = uncounted

    def __post_init__(self) -> None:
        self._positions: dict[str, Mapping[Partition, int]] = {}
        self._present = 0
        self._first_present: list[str] = []

    def run(self, *, go: bool) -> dict[str, Any]:
        """The due or done work.

        Raises:
            Misconfigured: the store still has an image, or a setting is wrong.
            Unavailable: a dependency does not answer.
            Broken: another run has taken the transactional id.
        """
        settings = self.settings
        topics = [topic for topic in (settings.output_topic, settings.corrections_topic) if topic]
        visited, _ = other_places()
        rows = {part: count for each in visited for part, count in each.search(self.chosen).items()}
        with ExitStack() as cleanup:
            forgetting = cleanup.enter_context(Forgetting(self.chosen, settings.corrections_topic))
            cache = cleanup.enter_context(opened_cache(settings))
            publisher = None
            if go:  # its transactional id ends what an earlier run left open, before anything is read
                publisher = cleanup.enter_context(closing(own_publisher(settings, f"{settings.group}-forget", topics)))
            self._read(forgetting)
            counts, finished = self._look(forgetting), False
            if publisher is not None:
                if self._present:
                    raise Misconfigured(
                        f"the store still has {counted(self._present, 'image')} of these, such as "
                        f"{', '.join(self._first_present)}: remove the objects first, or add --keep-object"
                    )
                counts, finished = self._publish(publisher, forgetting, counts["due"])
            for each in visited if finished else ():
                each.forget(self.chosen, forgetting.newest())
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
                "beyond": [each._asdict() for each in beyond(settings, keep_object=self.keep_object)],
            }

    def _read(self, forgetting: Forgetting) -> None:
        settings = self.settings
        takes = {settings.output_topic: forgetting.take, settings.corrections_topic: forgetting.take_correction}
        for topic, take in takes.items():
            if topic:
                keep = partial(self._positions.__setitem__, topic)
                at = self._positions.get(topic)
                read_topic(settings, topic, take, at=at, keep=keep, counting=self.counting)

    def _look(self, forgetting: Forgetting) -> Counter[str]:
        """Count the due work, and ask the store for the images."""
        counts = Counter[str]()

        def due() -> Iterator[str]:
            for subject, messages in forgetting.due():
                counts.update(forgetting.count(messages))
                yield from self.chosen.in_store(subject)

        subjects = due()
        if not self.keep_object:
            self._ask(iter(self.chosen.named) if self.chosen.named else subjects)
        for _ in subjects:
            pass
        return counts

    def _ask(self, subjects: Iterator[str]) -> None:
        """Raises Unavailable: the store does not answer."""
        threads = self.settings.fetch_threads
        with (
            closing(object_store(self.settings)) as store,
            ThreadPoolExecutor(threads) as pool,
            self.counting("looked for", None) as advance,
        ):
            while some := list(islice(subjects, _LOOKS)):
                there = pool.map(partial(_is_there, store), some)
                found = [each for each, is_there in zip(some, there, strict=True) if is_there]
                self._present += len(found)
                self._first_present += found[: _SHOWN - len(self._first_present)]
                advance(len(some))

    def _publish(self, publisher: KafkaPublisher, forgetting: Forgetting, due: int) -> tuple[Counter[str], bool]:
        stop = threading.Event()
        bounds = Bounds(self.settings.transaction_outcomes, self.settings.transaction_bytes, stop.is_set)
        with self.counting("images", due) as advance, stop_on_signals(stop.set):
            published = forget(forgetting, partial(self._read, forgetting), publisher, bounds, advance)
        return published, not stop.is_set()

    def _purge(self, cache: RedisResultCache, forgetting: Forgetting, *, remove: bool) -> int:
        """Remove the cache entries of the subjects and their contents; returns how many.

        Sources go last: after a kill the next run reads the contents there.
        """
        ours, count = scope(self.settings.cache_namespace), 0
        prefixes = [ours + each for each in subject_prefixes(self.settings.s3_endpoint)]

        def of_subjects(name: str) -> bool:
            return any(name.startswith(each) and self.chosen.has(name[len(each) :]) for each in prefixes)

        def of_contents(name: str) -> bool:
            return forgetting.has_content(content_of(name[len(ours) :]))

        for names in cache.names(prefixes[0]):
            for found in cache.hashes([name for name in names if of_subjects(name)]):
                for value in found.values():
                    forgetting.note_contents(SHA256.findall(value))
        with self.counting("entries looked at", None) as advance:
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
