"""What the demo plays: images and events go in, rows with their answers come out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tagstream_testing.local import notifications
from tagstream_testing.local.demo_display import Act, DemoDisplay
from tagstream_testing.local.demo_page import Scenes
from tagstream_testing.local.demo_watch import Row, Watch
from tagstream_testing.local.photos import Photograph
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.stack import BUCKET, TOPICS, LocalStack
from tagstream_testing.local.worker_process import WorkerProcess
from workers.backends.kafka import KafkaEmitter
from workers.backends.s3.store import MinioObjectStore
from workers.types import Message

_PATIENCE_S = 120.0
"""How long nothing may come back before the demo gives up."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An image and the event that tells of it."""

    photo: Photograph
    event: Message


class Acts:
    """Three of them: every image once; the same events again and a copy; a broken file and a deleted image."""

    def __init__(
        self, display: DemoDisplay, stack: LocalStack, store: MinioObjectStore, watch: Watch, worker: WorkerProcess
    ) -> None:
        self._display = display
        self._stack = stack
        self._store = store
        self._watch = watch
        self._worker = worker
        self.sent = 0

    def upload(self, photo: Photograph) -> Happening:
        """Put the image into the bucket."""
        body = photo.read()
        etag = self._store.put(BUCKET, photo.key, body, photo.content_type)
        return Happening(photo, notifications.created(TOPICS[0], BUCKET, photo.key, size=len(body), etag=etag))

    def play(self, uploads: Sequence[Happening]) -> Scenes:
        """All three acts, each until its last answer is committed."""
        started = time.monotonic()
        first = self._act("First pass: fetch, decode, tag, caption", uploads)
        seconds = time.monotonic() - started
        second = self._act(
            "Second pass: the same events again, and a copy under another name",
            [*uploads, self.upload(_copy_of(uploads[0].photo))],
        )
        faults = self._act(
            "When something is wrong: a file that was cut short, an image that was deleted",
            [self.upload(self._cut_short(uploads[-1].photo)), self._remove(uploads[0].photo)],
        )
        return Scenes(first, second, faults, seconds)

    def lost_and_twice(self) -> tuple[int, int]:
        """The numbers of events without outcome and of surplus outcomes, by coordinates."""
        answers = self._watch.coordinates
        return self.sent - len(set(answers)), len(answers) - len(set(answers))

    def _act(self, title: str, happenings: Sequence[Happening]) -> list[Row]:
        rows = [Row(f"{BUCKET}/{happening.photo.key}", happening.photo.path) for happening in happenings]
        for row in rows:
            self._watch.expect(row)
        with self._display.act(title, len(rows)) as act:
            with KafkaEmitter(self._stack.kafka.servers) as emitter:
                self.sent += emitter.emit(happening.event for happening in happenings)
            self._collect(act)
        return rows

    def _collect(self, act: Act) -> None:
        last = time.monotonic()
        while self._watch.waiting:
            for row in self._watch.poll(0.1):
                act.answered(row)
                last = time.monotonic()
            self._worker.must_run()
            if time.monotonic() - last > _PATIENCE_S:
                raise CannotStart(self._worker.complaint(f"sent nothing for {_PATIENCE_S:.0f} s"))

    def _cut_short(self, photo: Photograph) -> Photograph:
        """The photo's first third, as a broken upload would leave it."""
        body = photo.read()
        path = self._stack.scratch.path / f"cut-short{photo.path.suffix}"
        path.write_bytes(body[: len(body) // 3])
        return Photograph(f"broken/cut short{photo.path.suffix}", path)

    def _remove(self, photo: Photograph) -> Happening:
        self._store.remove(BUCKET, photo.key)
        return Happening(photo, notifications.removed(TOPICS[0], BUCKET, photo.key))


def _copy_of(photo: Photograph) -> Photograph:
    """The photo's bytes under a key with unusual characters."""
    return Photograph(f"copies/100% {photo.path.stem} + größer?{photo.path.suffix}", photo.path)
