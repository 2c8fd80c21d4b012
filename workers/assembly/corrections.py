"""Sends corrections; waits until an image's new outcome shows one (`correct --apply`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing

from schemas.correction import CorrectionRecord, read_correction
from schemas.enriched_image import EnrichedImage, read_output
from schemas.version import microseconds
from workers.assembly.clients import object_store, security, servers
from workers.assembly.image_sources import StoredImage, event_for
from workers.assembly.progress import Counting
from workers.backends.kafka import KafkaEmitter, ReadRecord, Tail, require_topics, tail
from workers.backends.s3.store import MinioObjectStore
from workers.errors import Misconfigured
from workers.settings import Settings
from workers.types import Message

_TRIES = 10
_AGAIN_S = 1.0
_LAST_S = 5.0
"""How long the outcome of the last event is waited for."""


def require_applied(settings: Settings, topic: str) -> None:
    """
    Raises:
        Misconfigured: workers with these settings would not apply a correction in this topic.
    """
    if settings.corrections_topic != topic:
        raise Misconfigured(
            f"--apply: workers with these settings don't read {topic}; set TAGSTREAM_CORRECTIONS_TOPIC={topic} for both"
        )


def require_corrections_topic(settings: Settings, topic: str) -> None:
    """
    Raises:
        Misconfigured: the topic does not exist.
    """
    try:
        require_topics(servers(settings), [topic], security=security(settings))
    except Misconfigured as error:
        if topic == settings.corrections_topic:
            raise
        raise Misconfigured(
            f"{error}\nworkers and `tagstream topics create` know it as that of corrections once you set "
            f"TAGSTREAM_CORRECTIONS_TOPIC={topic}"
        ) from None


def send_corrections(settings: Settings, topic: str, records: Iterable[CorrectionRecord], counting: Counting) -> int:
    """Send corrections; returns their number. Raises Misconfigured, as `require_corrections_topic` or as `records`."""
    require_corrections_topic(settings, topic)
    # the broker is asked first: a file that is read for an hour should not find it away
    with KafkaEmitter(servers(settings), security=security(settings)) as emitter, counting("sent", None) as advance:
        done = 0

        def tell(acknowledged: int) -> None:
            nonlocal done
            advance(acknowledged - done)
            done = acknowledged

        try:
            return emitter.emit((Message(topic, record.key, record.value, ()) for record in records), tell)
        except Misconfigured:  # a line that is none: what stood before it shall not be lost with it
            emitter.flush()
            raise


class Applying:
    """Sends one image's event each second until its outcome shows the correction.

    Args:
        record: the correction.
    """

    def __init__(self, settings: Settings, record: CorrectionRecord) -> None:
        self._settings = settings
        self._subject = record.key
        self._said = None if record.value is None else read_correction(record.value)
        self._known = 0
        """The greatest version that may be without the correction."""
        self._without = 0
        """Outcomes that came without it."""

    def run(self, send: Callable[[], object]) -> int:
        """Send the correction and events; returns the version of the outcome that shows it.

        Args:
            send: sends the correction.

        Raises:
            Misconfigured: there is no such object, or no outcome shows the correction.
            Unavailable: a broker or the store does not answer.
        """
        address, login = servers(self._settings), security(self._settings)
        with (
            closing(object_store(self._settings)) as store,
            tail(address, [self._settings.output_topic], security=login) as reading,
            KafkaEmitter(address, security=login) as emitter,
        ):
            # An older outcome has no later moment of the store's clock.
            self._known = microseconds(self._look(store).date) or 0
            send()
            for number in range(_TRIES):
                self._send(emitter, self._look(store))
                found = self._await(reading, _LAST_S if number == _TRIES - 1 else _AGAIN_S)
                if found is not None:
                    return found
        raise Misconfigured(self._failure())

    def _look(self, store: MinioObjectStore) -> StoredImage:
        bucket, _, key = self._subject.decode().partition("/")
        found = store.find(bucket, key)
        if found is None:
            raise Misconfigured(f"--apply: the store has no {bucket}/{key}")
        return StoredImage(bucket, key, found.size, found.etag, found.date)

    def _send(self, emitter: KafkaEmitter, image: StoredImage) -> None:
        emitter.emit([event_for(image, self._settings.input_topics[0])])

    def _await(self, reading: Tail, seconds: float) -> int | None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for record in reading.poll(min(left, 0.2)):
                if record.key == self._subject and (found := self._judge(record)) is not None:
                    return found
        return None

    def _judge(self, record: ReadRecord) -> int | None:
        """The version of an outcome that shows the correction; None: another."""
        try:
            outcome = read_output(record.value or b"")
        except ValueError:
            return None
        if not isinstance(outcome, EnrichedImage) or outcome.version is None:
            return None
        if not self._shows(outcome):
            self._without += 1
        elif outcome.version > self._known:
            return outcome.version
        self._known = max(self._known, outcome.version)
        return None

    def _shows(self, outcome: EnrichedImage) -> bool:
        shown = outcome.corrections
        if self._said is None or shown is None:
            return self._said is None and shown is None
        return set(self._said.added) <= set(shown.added) and set(self._said.removed) <= set(shown.removed)

    def _failure(self) -> str:
        begin = f"--apply: the correction is sent, but after {_TRIES} events no outcome"
        if not self._without:
            return f"{begin} of the image came: is a worker running? `tagstream status` tells"
        if self._said is not None and self._said.sha256 is not None:
            return f"{begin} shows it: has the image the content that --sha256 names?"
        return f"{begin} shows it: have the workers TAGSTREAM_CORRECTIONS_TOPIC={self._settings.corrections_topic}?"
