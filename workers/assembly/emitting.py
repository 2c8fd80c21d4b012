"""Sends an event for each image of a source, in key order."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

from schemas.printable import counted, printable
from workers.assembly.clients import object_store, security, servers
from workers.assembly.image_sources import BATCH, ImageSource, Outcome, StoredImage, batches, event_for
from workers.assembly.progress import Counting, Pace, uncounted
from workers.backends.kafka import KafkaEmitter, require_topics
from workers.errors import TagstreamError
from workers.settings import Settings
from workers.types import Message


class Emission:
    """One `emit`: uploads and sends, batch by batch in key order.

    Args:
        after: begin behind this key; empty: at the beginning.
    """

    def __init__(self, settings: Settings, source: ImageSource, topic: str, pace: Pace, after: str = "") -> None:
        require_topics(servers(settings), [topic], security=security(settings))
        self._settings = settings
        self._source = source
        self._topic = topic
        self._pace = pace
        self._last = after
        self._outcomes: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def run(self, counting: Counting = uncounted, note: Callable[[str], object] = lambda _: None) -> int:
        """Send the events; returns how many.

        Args:
            note: called with how to go on, if it is interrupted.
        """
        sent = 0
        with (
            closing(object_store(self._settings)) as store,
            KafkaEmitter(servers(self._settings), security=security(self._settings)) as emitter,
            counting("events sent", None) as advance,
            closing(self._source.images(store, self._last, try_only=False)) as images,
        ):
            try:
                for batch in batches(images, self._pace.batch(BATCH)):
                    sent += emitter.emit(self._event(image) for image, _ in batch)
                    self._last = batch[-1][0].key
                    for image, outcome in batch:
                        self._count(image, outcome)
                    advance(len(batch))
            except (KeyboardInterrupt, TagstreamError):
                if sent:
                    note(
                        f"stopped: {counted(sent, 'event')} sent to {self._topic}. The same command goes on with "
                        f"--after {shlex.quote(printable(self._last))} (up to {BATCH} events may come twice)."
                    )
                raise
        return sent

    def rehearse(self) -> Iterator[tuple[StoredImage, Outcome]]:
        """Each image with what `run` would do with it; does nothing."""
        with closing(object_store(self._settings)) as store:
            for image, outcome in self._source.images(store, self._last, try_only=True):
                self._count(image, outcome)
                yield image, outcome

    def summary(self) -> list[str]:
        """Lines with the number of files by action."""
        done = [
            f"{outcome}: {self._outcomes[outcome]:,} ({counted(self._bytes[outcome], 'byte')})"
            for outcome in ("uploaded", "replaced", "there already")
            if self._outcomes[outcome]
        ]
        return [*done, *self._source.left_out.lines()]

    def _event(self, image: StoredImage) -> Message:
        self._pace.wait()
        return event_for(image, self._topic)

    def _count(self, image: StoredImage, outcome: str) -> None:
        self._outcomes[outcome] += 1
        self._bytes[outcome] += image.size
