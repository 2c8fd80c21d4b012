"""A real browser before a real site: Chromium, the page's server in a thread, photographs, a small worker."""

import hashlib
import io
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from index.tests.support import Said, enriched, vector_of, written
from schemas.correction import read_correction
from schemas.version import microseconds
from tagstream_index.database import Connection
from tagstream_index.page import process
from tagstream_index.page.access import LOOPBACK, Access, People
from tagstream_index.page.changes import Changes
from tagstream_index.page.correcting import Corrector
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import Pictures
from tagstream_index.page.pool import Pool
from tagstream_index.page.server import Site
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.photos import Photograph
from tests.support.missing import skip_or_fail
from workers.backends.kafka import KafkaEmitter, tail
from workers.intake.geometry import Raster
from workers.intake.hashes import hashes_of
from workers.types import Message

TOKEN: Final = "correct horse battery"
BUCKET: Final = "photos"
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_TAGGER: Final = {"name": "compact", "digest": "c" * 64, "precision": "fp32", "random_weights": False}
_TIMINGS: Final = {"waiting": 1.4, "fetch": 18.2, "decode": 22.7, "tagging": 36.1, "caption": 0.3}

SCENES: Final[Sequence[tuple[str, str, Sequence[tuple[str, float]]]]] = (
    ("china", "a temple above a lake", [("temple", 0.93), ("lake", 0.71), ("tree", 0.64), ("roof", 0.41)]),
    ("flower", "an orange flower", [("flower", 0.97), ("dahlia", 0.78), ("leaf", 0.52)]),
    ("astronaut", "a smiling woman in a space suit", [("astronaut", 0.95), ("person", 0.92), ("flag", 0.66)]),
    (
        "coffee",
        "a cup of coffee on a wooden table",
        [("coffee", 0.96), ("cup", 0.94), ("table", 0.58), ("spoon", 0.47)],
    ),
    ("rocket", "a rocket on its launch pad at night", [("rocket", 0.91), ("night", 0.7), ("tower", 0.55)]),
    ("chelsea", "a close look at a cat", [("cat", 0.98), ("whiskers", 0.61)]),
    ("motorcycle_left", "a red motorcycle in a garage", [("motorcycle", 0.97), ("garage", 0.62), ("wheel", 0.59)]),
    ("camera", "a man behind a camera", [("camera", 0.9), ("person", 0.86), ("tripod", 0.8), ("grass", 0.5)]),
    ("coins", "rows of old coins", [("coin", 0.92), ("metal", 0.51)]),
    ("motorcycle_right", "a red motorcycle in a garage", [("motorcycle", 0.96), ("garage", 0.6), ("wheel", 0.57)]),
)
"""Name, caption and tags of each photograph, newest first."""
TAKEN: Final = {"coins": "2026-05-17T14:03:00+02:00", "motorcycle_right": "2024-08-20T19:45:10"}
"""When the last ones were taken."""


PATIENCE_MS: Final = 45_000
"""Of actions and expectations: on a busy machine decoders take seconds to start."""
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser without window. One that is missing skips here, and fails where CI is set."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        skip_or_fail(f"no browser: none of {', '.join(_NAMES)} is installed (apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_FLAGS), downloads_path=folder)
        yield browser
        browser.close()


@contextmanager
def served(
    settings: IndexSettings,
    corrector: Corrector | None = None,
    changes: Changes | None = None,
    *,
    review: Path | None = None,
    behind_proxy: bool = False,
    people: People | None = None,
) -> Iterator[str]:
    access = Access(TOKEN, to_read=False, people=people)
    parts = (Pool(settings), Pictures(settings, 100_000_000), Bundles(settings, None), access, corrector, changes)
    site = Site(*parts, review=review)
    config = process.config(site, hosts=LOOPBACK, behind_proxy=behind_proxy, port=0, timeout_graceful_shutdown=1)
    socket = config.bind_socket()
    socket.listen()  # who comes before the server is up waits
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), name="page")
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
        site.close()


@dataclass(frozen=True)
class StoredPhotograph:
    key: str
    body: bytes
    said: Said


def scenes(photos: Iterable[Photograph], now: datetime) -> list[StoredPhotograph]:
    by_name = {photo.path.stem: photo for photo in photos}
    made = []
    for number, (name, caption, tags) in enumerate(SCENES):
        photo = by_name[name]
        body = photo.read()
        key = f"2026/11/{photo.path.name}"
        stored, vector = now - timedelta(hours=12 * number), vector_of(number // 2)
        said = outcome(key, body, tags, caption, stored, TAKEN.get(name), vector=vector)
        made.append(StoredPhotograph(key, body, said))
    return made


def outcome(
    key: str,
    body: bytes,
    tags: Sequence[tuple[str, float]],
    caption: str,
    at: datetime,
    taken_at: str | None = None,
    **others: Any,
) -> Said:
    with Image.open(io.BytesIO(body)) as image:
        facts: dict[str, Any] = {"format": (image.format or "").lower(), "width": image.width, "height": image.height}
        facts["phash"], facts["thumbhash"] = hashes_of(Raster(image.convert("RGB"), image.size))
    facts |= {} if taken_at is None else {"taken_at": taken_at}
    moment = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = enriched(key, tags=tags, caption=caption, last_modified=moment, produced_at=moment, **others)
    source = {**said.fields["source"], "sha256": hashlib.sha256(body).hexdigest()}
    return said.but(
        source=source,
        image={**facts, "bytes": len(body)},
        models={"tagger": _TAGGER, "captioner": None},
        timings_ms=_TIMINGS,
    )


def copy_rows(tables: Connection, count: int) -> None:
    """As many older pictures of the same contents, under other keys."""
    names = """select attname from pg_attribute where attrelid = 'image'::regclass and attnum > 0 and not attisdropped
        and attgenerated = '' and attname not in ('subject', 'key', 'last_modified')"""
    same = ", ".join(name for (name,) in tables.execute(names.encode()))
    copied = f"""insert into image (subject, key, last_modified, {same})
        select bucket || '/2025/' || n, '2025/' || n, timestamptz '2025-06-01' - n * interval '1 min', {same}
        from generate_series(1, %s) n
        join (select *, row_number() over () as place, count(*) over () as kinds from image) old
        on mod(n, kinds) + 1 = place"""
    tables.execute(copied.encode(), (count,))
    tables.execute("analyze image")


class SmallWorker(threading.Thread):
    """Answers events with outcomes under all corrections so far, in the topic and in the tables."""

    def __init__(self, settings: IndexSettings, tables: Connection, of: Sequence[StoredPhotograph]) -> None:
        super().__init__(name="small worker")
        self._settings, self._tables = settings, tables
        self._by_key = {each.said.subject: each.said for each in of}
        self._said: dict[str, dict[str, bool]] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        (servers,) = self._settings.kafka_servers
        topics = [self._settings.corrections_topic, self._settings.live_topic]
        with ExitStack() as cleanup:
            reading = [cleanup.enter_context(tail(servers, [topic], start="beginning")) for topic in topics]
            emitter = cleanup.enter_context(KafkaEmitter(servers))
            while not self._ended.is_set():
                for record in reading[0].poll(0.05):
                    correction = read_correction(record.value or b"")
                    known = self._said.setdefault(correction.subject, {})
                    known |= dict.fromkeys(correction.added, True) | dict.fromkeys(correction.removed, False)
                for record in reading[1].poll(0.05):
                    event = orjson.loads(record.value or b"")
                    self._answer(emitter, f"{event['bucket']}/{event['key']}")

    def _answer(self, emitter: KafkaEmitter, subject: str) -> None:
        said, known = self._by_key[subject], self._said.get(subject, {})
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        kept = [tag for tag in said.fields["tags"] if known.get(tag["name"], True)]
        added = [name for name, present in known.items() if present]
        people = [{"name": name, "score": 1.0, "label_id": None, "source": "person"} for name in added]
        new = said.but(
            version=microseconds(now),
            produced_at=now,
            tags=[*people, *kept],
            corrections={"added": added, "removed": [name for name, present in known.items() if not present]},
        )
        emitter.emit([Message(self._settings.output_topic, new.key, new.value, ())])
        time.sleep(0.3)  # as an indexer takes a moment
        written(self._tables, new)

    def end(self) -> None:
        self._ended.set()
        self.join()
