"""The demo: real servers, real photographs, a real worker, and its outcomes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from schemas.enriched_image import EnrichedImage
from schemas.printable import counted
from tagstream_testing.local import demo_page
from tagstream_testing.local.demo_display import DemoDisplay
from tagstream_testing.local.demo_page import Scenes
from tagstream_testing.local.demo_retag import PLAN, THRESHOLD, Change, Retagged, tagstream
from tagstream_testing.local.demo_search import begin_index, serve_page, show_search
from tagstream_testing.local.demo_text import KEY, SEARCHED, reading, sign
from tagstream_testing.local.demo_watch import Row, Watch
from tagstream_testing.local.endings import run_until_ended
from tagstream_testing.local.photos import Photograph, created, photographs, removed
from tagstream_testing.local.programs import KAFKA_VERSION
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.stack import BUCKET, TOPICS, LocalStack
from tagstream_testing.local.worker_process import WorkerProcess
from workers.backends.kafka import KafkaEmitter
from workers.backends.s3.store import MinioObjectStore
from workers.types import Message

_SERVERS = f"Apache Kafka {KAFKA_VERSION}, SeaweedFS (S3) and Valkey"


class PromiseBroken(Exception):
    """An event has no outcome, or more than one: a bug of ours."""


def run_demo(photos: Path | None = None, keep: bool = False, page: Path | None = None) -> int:
    """Show the pipeline at work, from upload to dead letter.

    Then write a page about it.

    Args:
        photos: a folder of images; None: those in the wheels.
        keep: leave everything running at the end, until Ctrl-C.
        page: where the HTML page goes; None: tagstream-demo.html in the current folder.

    Returns:
        0. A signal ends the process, with 128 and its number.

    Raises:
        NoPhotographs: the folder holds no image.
        CannotStart: a server or the worker did not come up, ended, or answered nothing.
        PromiseBroken: events and outcomes don't match.
    """
    display = DemoDisplay()
    chosen = photographs(photos)
    with closing(LocalStack()) as stack:
        if photos is None:
            chosen = [chosen[0], sign(stack.scratch.path), *chosen[1:]]
        run_until_ended(
            lambda: _play(display, stack, chosen, page or Path("tagstream-demo.html"), keep),
            lambda which: _stop(display, stack, which),
        )
    return 0


def _stop(display: DemoDisplay, stack: LocalStack, which: signal.Signals) -> int:
    stack.close()
    display.leave("Stopped. Nothing is left running.")
    return 128 + which


def _play(display: DemoDisplay, stack: LocalStack, photos: Sequence[Photograph], page: Path, keep: bool) -> None:
    with display.step(f"Starting {_SERVERS}"):
        stack.start()
    with display.step(f"Making the bucket {BUCKET} and the topics {', '.join(TOPICS)}"):
        stack.furnish()
    with ExitStack() as ending:
        with display.step("Making the model that reads text, of its wheel"):
            reads = reading(stack)
        worker = stack.add(WorkerProcess(stack.scratch.path / "worker", stack.environment() | reads))
        ending.callback(worker.kill)
        worker.launch()  # it loads its model while the index begins and the images are uploaded
        indexer = begin_index(stack, worker)
        store = ending.enter_context(closing(stack.object_store()))
        watch = ending.enter_context(closing(Watch(stack.kafka.servers, *TOPICS[1:])))
        acts = Acts(display, stack, store, watch, worker)
        with display.step(f"Uploading {counted(len(photos), 'image')}"):
            uploads = [acts.upload(photo) for photo in photos]
        with display.step("Loading the worker's model and warming up"):
            worker.wait()
        scenes = acts.play(uploads)
        if indexer is not None:
            text = SEARCHED if reads and KEY in {photo.key for photo in photos} else ""
            show_search(display, indexer, [row.answer for row in (*scenes.first, *scenes.second)], text)
        _sum_up(display, acts, scenes, page)
        if keep:
            _stay(display, stack, worker, None if indexer is None else serve_page(stack).url)
        with display.step("Stopping the worker: it finishes what it has, commits and leaves"):
            worker.stop()
            worker.must_have_ended_well()


def _sum_up(display: DemoDisplay, acts: Acts, scenes: demo_page.Scenes, page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(demo_page.render(scenes, _SERVERS), encoding="utf-8")
    display.title("Summary")
    for line in _summary(scenes):
        display.say(f"  {line}")
    lost, twice = acts.lost_and_twice()
    display.say(f"  {counted(acts.sent, 'event')} sent: {lost} lost, {twice} answered twice")
    display.say(f"\nA page with the images: {page.resolve()}")
    if lost or twice:
        raise PromiseBroken("every event must have exactly one outcome")


def _summary(scenes: demo_page.Scenes) -> Iterable[str]:
    saved = [row.remembered for row in scenes.second]
    outcomes = [row.outcome for row in (*scenes.first, *scenes.second, *scenes.faults)]
    yield f"first pass: {counted(len(scenes.first), 'image')} in {scenes.seconds:.1f} s, up to the last commit"
    yield (
        f"second pass: of {len(saved)}, {saved.count('fetch and model')} needed no download and no model, "
        f"{saved.count('model')} no model"
    )
    yield f"outcomes: {', '.join(f'{outcomes.count(outcome)} {outcome}' for outcome in dict.fromkeys(outcomes))}"
    if (retagged := scenes.retagged) is not None:
        counts = retagged.counts
        yield (
            f"a lower threshold: of {counted(counts['subjects'], 'image')}, {counts['rescored']} made anew from "
            f"stored scores, {counts['need_image']} needed the image, {counts['unchanged']} unchanged"
        )
        yield f"audit: {retagged.audit}"


def _stay(display: DemoDisplay, stack: LocalStack, worker: WorkerProcess, search_page: str | None) -> None:
    display.title("Everything stays up until Ctrl-C. To use it from another terminal:")
    for line in stack.exports():
        display.say(line)
    display.say(f"\nThe worker's health and metrics: {worker.url}/readyz and {worker.url}/metrics")
    if search_page is not None:
        display.say(f"The search page, in a browser: {search_page}/")
        display.say(f"To correct tags there, log in with {stack.page_token}")
    while True:
        worker.must_run()
        time.sleep(0.5)


_PATIENCE_S = 120.0
"""How long nothing may come back before the demo gives up."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An image and the event that tells of it."""

    photo: Photograph
    event: Message


class Acts:
    """Every image once; the same events again and a copy; a broken file and a deleted image; a lower threshold."""

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
        return Happening(photo, created(TOPICS[0], BUCKET, photo.key, size=len(body), etag=etag))

    def play(self, uploads: Sequence[Happening]) -> Scenes:
        """All acts, each until its last answer is committed."""
        started = time.monotonic()
        first = self._act("First pass: fetch, decode, tag, caption", uploads)
        seconds = time.monotonic() - started
        path = uploads[0].photo.path
        copy = Photograph(f"copies/100% {path.stem} + größer?{path.suffix}", path)  # a key with unusual characters
        second = self._act(
            "Second pass: the same events again, and a copy under another name", [*uploads, self.upload(copy)]
        )
        faults = self._act(
            "When something is wrong: a file that was cut short, an image that was deleted",
            [self.upload(self._cut_short(uploads[-1].photo)), self._remove(uploads[0].photo)],
        )
        return Scenes(first, second, faults, seconds, self._retag([*first, *second]))

    def lost_and_twice(self) -> tuple[int, int]:
        """The numbers of events without outcome and of surplus outcomes, by coordinates."""
        answers = [place for place in self._watch.coordinates if place[0] == TOPICS[0]]
        return self.sent - len(set(answers)), len(answers) - len(set(answers))

    def _act(self, title: str, happenings: Sequence[Happening]) -> list[Row]:
        rows = [Row(f"{BUCKET}/{happening.photo.key}", happening.photo.path) for happening in happenings]
        for row in rows:
            self._watch.expect(row)
        self._display.title(title)
        with KafkaEmitter(self._stack.kafka.servers) as emitter:
            self.sent += emitter.emit(happening.event for happening in happenings)
        self._collect(self._display.answered)
        return rows

    def _retag(self, known: Sequence[Row]) -> Retagged:
        """Plan a lower threshold, carry it out, and audit the result."""
        self._display.title(f"A lower threshold, {THRESHOLD}: new tags from stored scores, without image and model")
        self._command("retag", "plan", "-o", PLAN)
        head, *plan = map(json.loads, (self._worker.folder / PLAN).read_bytes().splitlines())
        rows = [Row(line["subject"], None) for line in plan]
        for row in rows:
            self._watch.expect(row)
        self.sent += sum(line["verdict"] == "image" for line in plan)
        self._command("retag", "go", PLAN)
        self._collect(lambda _: None)
        before = {row.subject: row.answer for row in known if isinstance(row.answer, EnrichedImage)}
        remade = [(row.key, before[row.subject], row.answer) for row in rows]
        changes = [Change(key, old, new) for key, old, new in remade if isinstance(new, EnrichedImage)]
        for change in changes:
            self._display.change(change)
        audit = tagstream(self._worker.folder, self._worker.environment(), "audit")
        return Retagged(head["counts"], changes, audit[-1])

    def _command(self, *arguments: str) -> None:
        self._display.say(f"$ tagstream {' '.join(arguments)}")
        for line in tagstream(self._worker.folder, self._worker.environment(), *arguments):
            self._display.say(line)

    def _collect(self, answered: Callable[[Row], object]) -> None:
        last = time.monotonic()
        while self._watch.waiting:
            for row in self._watch.poll(0.1):
                answered(row)
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
        return Happening(photo, removed(TOPICS[0], BUCKET, photo.key))
