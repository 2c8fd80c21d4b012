"""Sends corrections; applies them: sends each with its image's event until an outcome shows it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from math import inf
from typing import Final, Self

from schemas.correction import CorrectionRecord, read_correction
from schemas.enriched_image import EnrichedImage, read_output
from schemas.version import microseconds
from workers.assembly.clients import object_store, security, servers
from workers.assembly.image_sources import StoredImage, event_for
from workers.assembly.progress import Counting
from workers.backends.kafka import KafkaEmitter, require_topics, tail
from workers.errors import Misconfigured, Rejected
from workers.settings import Settings
from workers.types import Message, ReadRecord

AT_ONCE: Final = 32
"""Events of a batch on their way: an event of another batch is never far behind."""
_EVENTS: Final = 10
_SILENT_S: Final = 3.0
"""Without any outcome for so long, further events are sent: workers may have rejected the images of these."""
_PAUSE_S: Final = 1.0
"""Before each event: workers read the correction, and the store's clock, of seconds, goes on."""
_QUIET_S: Final = 15.0
"""A batch without any outcome for so long has failed."""
_POLL_S: Final = 0.1
_LOOKS: Final = 8


def require_applied(settings: Settings, topic: str) -> None:
    """Raises Misconfigured: workers with these settings would not apply a correction in this topic."""
    if settings.corrections_topic != topic:
        raise Misconfigured(
            f"--apply: workers with these settings don't read {topic}; set TAGSTREAM_CORRECTIONS_TOPIC={topic} for both"
        )


def require_corrections_topic(settings: Settings, topic: str) -> None:
    """Raises Misconfigured: the topic does not exist."""
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


@dataclass(slots=True, eq=False)
class Applying:
    """A correction on its way.

    Args:
        version: of the outcome that shows it; 0 until then.
        failure: why no outcome shows it; empty until then.
    """

    record: CorrectionRecord
    version: int = 0
    failure: str = ""
    events: int = 0
    due_at: float = inf
    """When the next event is sent."""
    sent_at: float = -inf
    """When the last one was."""
    known: int = 0
    """The greatest version that may be without the correction."""
    without: bool = False
    """Whether an outcome came without it."""

    @property
    def ended(self) -> bool:
        return bool(self.version or self.failure)

    def judge(self, outcome: EnrichedImage) -> None:
        """Take an outcome of the image: it shows the correction, or another event is due."""
        version, shows = outcome.version or 0, self._shown_by(outcome)
        if shows and version > self.known:
            self.version = version
            return
        self.without |= not shows
        self.known = max(self.known, version)
        if self.events == _EVENTS:
            self.fail()
        else:
            self.due_at = min(self.due_at, time.monotonic() + _PAUSE_S)

    def _shown_by(self, outcome: EnrichedImage) -> bool:
        said, shown = self.record.value, outcome.corrections
        if said is None or shown is None:
            return said is None and shown is None
        correction = read_correction(said)
        return {*correction.added} <= {*shown.added} and {*correction.removed} <= {*shown.removed}

    def fail(self) -> None:
        """Say why no outcome shows it."""
        if not self.without:
            self.failure = "it is sent, but no outcome of the image came: is a worker running? `tagstream status` tells"
        else:
            self.failure = (
                f"it is sent, but no outcome of {self.events} events shows it: has the image other content by now, or "
                "do the workers lack TAGSTREAM_CORRECTIONS_TOPIC?"
            )


@dataclass(slots=True)
class _Sent:
    """A batch on its way, by subject.

    Args:
        heard_at: its last outcome.
        passed: an outcome came of an event that was sent then.
    """

    parts: dict[bytes | None, Applying]
    heard_at: float
    passed: float = -inf

    def room(self, now: float) -> int:
        """How many events may be sent; those that later ones have overtaken hold no place."""
        since = max(self.passed, now - _SILENT_S) if now - self.heard_at > _SILENT_S else self.passed
        return max(0, AT_ONCE - sum(each.due_at == inf and each.sent_at >= since for each in self.parts.values()))

    def take(self, record: ReadRecord) -> None:
        """Judge a record of the output topic."""
        each = self.parts.get(record.key)
        if each is None or each.ended:
            return
        with suppress(ValueError):
            outcome = read_output(record.value or b"")
            if isinstance(outcome, EnrichedImage):
                self.heard_at, self.passed = time.monotonic(), max(self.passed, each.sent_at)
                each.judge(outcome)

    def goes_on(self) -> bool:
        """Forget the ended ones; silence ends the others."""
        self.parts = {key: each for key, each in self.parts.items() if not each.ended}
        if time.monotonic() - self.heard_at <= _QUIET_S:
            return bool(self.parts)
        for each in self.parts.values():
            each.fail()
        return False


class Applier:
    """Applies batches of corrections with one emitter and one reader. For one thread, in a `with`.

    Raises:
        Unavailable: a broker or the store does not answer; also from its methods.
        Misconfigured: a topic does not exist; also from its methods.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._batches: list[_Sent] = []
        address, login = servers(settings), security(settings)
        with ExitStack() as opened:
            self._store = opened.enter_context(closing(object_store(settings)))
            self._reading = opened.enter_context(tail(address, [settings.output_topic], security=login))
            self._emitter = opened.enter_context(KafkaEmitter(address, security=login))
            self._threads = opened.enter_context(ThreadPoolExecutor(_LOOKS, "tagstream-look"))
            self.close = opened.pop_all().close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, batch: Sequence[Applying]) -> None:
        """Send these corrections, of different images; `turn` sends their events."""
        images = zip(batch, self._threads.map(self._look, batch), strict=True)
        there: dict[bytes | None, Applying] = {each.record.key: each for each, image in images if image is not None}
        topic = self._settings.corrections_topic
        self._emitter.emit(Message(topic, each.record.key, each.record.value, ()) for each in there.values())
        now = time.monotonic()
        for each in there.values():
            each.due_at = now + _PAUSE_S
        self._batches.append(_Sent(there, now))

    def turn(self) -> bool:
        """Send events that are due, and read for a moment; returns whether any correction is on its way."""
        for batch in self._batches:
            now = time.monotonic()
            due = [each for each in batch.parts.values() if each.due_at <= now][: batch.room(now)]
            images, topic = self._threads.map(self._look, due), self._settings.live_topic
            self._emitter.emit(event_for(image, topic) for image in images if image is not None)
            for each in due:
                each.due_at, each.sent_at, each.events = inf, now, each.events + 1
        for record in self._reading.poll(_POLL_S):
            for batch in self._batches:
                batch.take(record)
        self._batches = [batch for batch in self._batches if batch.goes_on()]
        return bool(self._batches)

    def _look(self, each: Applying) -> StoredImage | None:
        """The image in the store; None: the correction has failed."""
        bucket, _, key = each.record.key.decode().partition("/")
        try:
            found = self._store.find(bucket, key)
        except Rejected as error:
            each.failure = str(error)
            return None
        if found is None:
            each.failure = f"the store has no {bucket}/{key}"
            return None
        # An older outcome has no later moment of the store's clock than the first one.
        each.known = each.known or microseconds(found.date) or 0
        return StoredImage(bucket, key, found.size, found.etag, found.date)
