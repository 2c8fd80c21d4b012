"""Corrections that the page sends, as `tagstream correct --apply` does; pending until an outcome shows them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from schemas.correction import CorrectionRecord, correction
from tagstream_index.page.one import One
from tagstream_index.settings import IndexSettings
from workers.assembly.clients import security, servers
from workers.assembly.corrections import Applying
from workers.backends.kafka import KafkaEmitter
from workers.errors import TagstreamError
from workers.types import Message

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 2
_REMEMBERED_S: Final = 600.0


class Refused(Exception):
    """An invalid correction; the text is a sentence for the user."""


@dataclass(slots=True)
class Pending:
    """A correction on its way: `failure` says why it did not arrive."""

    name: str
    present: bool
    since: float
    failure: str = ""


class Corrector:
    """Sends corrections in the background. Thread-safe."""

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pending: dict[str, list[Pending]] = {}
        self._threads = ThreadPoolExecutor(_AT_ONCE, "tagstream-correct")

    def send(self, picture: One, name: str, present: bool) -> None:
        """Say that a picture has a tag, or has it not.

        Raises:
            Refused: the correction is invalid.
        """
        shown = picture.tile
        try:
            record = correction(
                shown.bucket,
                shown.key,
                added=[name] if present else (),
                removed=() if present else [name],
                sha256=shown.sha256,
                model=picture.model.get("digest"),
            )
        except ValueError as error:
            raise Refused(f"This is no correction: {error}.") from error
        pending = Pending(name, present, time.monotonic())
        with self._lock:
            others = [each for each in self._pending.get(shown.subject, ()) if each.name != name]
            self._pending[shown.subject] = [*others, pending]
        self._threads.submit(self._run, shown.subject, record, pending)

    def pending(self, picture: One) -> list[Pending]:
        """Corrections of a picture that its row does not show yet; failed ones come once."""
        shown = {True: picture.added, False: picture.removed}
        began = time.monotonic() - _REMEMBERED_S
        with self._lock:
            waiting = self._pending.pop(picture.tile.subject, [])
            left = [each for each in waiting if each.since > began and each.name not in shown[each.present]]
            if kept := [each for each in left if not each.failure]:
                self._pending[picture.tile.subject] = kept
        return left

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, subject: str, record: CorrectionRecord, pending: Pending) -> None:
        try:
            Applying(self._settings, record).run(lambda: self._emit(record))
        except TagstreamError as error:
            logger.warning("a correction did not arrive: %s", error)
            pending.failure = str(error).removeprefix("--apply: ")

    def _emit(self, record: CorrectionRecord) -> None:
        with KafkaEmitter(servers(self._settings), security=security(self._settings)) as emitter:
            emitter.emit([Message(self._settings.corrections_topic, record.key, record.value, ())])


def missing(settings: IndexSettings) -> Collection[str]:
    """The settings without which nothing can be corrected."""
    wanted = ("kafka_servers", "s3_endpoint", "corrections_topic", "index_page_token")
    return [f"TAGSTREAM_{name.upper()}" for name in wanted if not getattr(settings, name)]
