"""A worker's life of some minutes with each fault once, so that every panel shows something."""

import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.chaos.shared_worker import SharedWorker
from tests.chaos.unruly import Unruly, image_of
from tests.chaos.unruly_model import CURSED, UNCOUNTABLE
from tests.support.images import tiff_that_its_codec_complains_of
from tests.support.lying_store import says
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo
from tests.unit.models.photographs import SKIMAGE

SETTINGS = {"self_test_s": "2", "TAGSTREAM_RENDITION": "{bucket}/web/{key}.jpg"}
PATIENCE_S = 240.0
"""On a busy machine a worker needs a minute to start."""


def cat(seed: int) -> bytes:
    """A photograph that has tags; no two seeds give the same bytes."""
    out = io.BytesIO()
    with Image.open(SKIMAGE / "chelsea.png") as opened:
        opened.convert("RGB").resize((160, 120)).save(out, "JPEG", comment=f"{seed}".encode())
    return out.getvalue()


class Life:
    def __init__(self, shared: SharedWorker, folder: Path) -> None:
        self.shared = shared
        self.folder = folder
        self._photos = 0

    def make(self) -> float:
        """Let it all happen; answers how many seconds before its end a time of steady work was."""
        self._steady(8)
        early = time.time()
        self._odd_images()
        self._store_fails()
        self._cache_fails()
        self._decoder_dies()
        self._partitions_move()
        self._broker_fails()
        self._steady(8)
        return time.time() - early

    def _send(self, *bodies: bytes) -> None:
        keys = []
        for body in bodies:
            self._photos += 1
            keys.append(f"{self._photos}.jpg")
            self.shared.site.upload(keys[-1], body)
        self.shared.site.send([(self.shared.site.own(key), ()) for key in keys])

    def _fresh(self, count: int) -> None:
        self._send(*(photo(self._photos + number) for number in range(count)))

    def _happens(self, metric: str, **labels: str) -> None:
        process = self.shared.worker
        eventually(lambda: process.metric(metric, **labels) > 0, PATIENCE_S, process.said)

    def _steady(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._send(cat(self._photos), cat(self._photos + 1), cat(1), cat(2))
            self.shared.committed(PATIENCE_S)

    def _odd_images(self) -> None:
        self._send(
            b"no image at all", tiff_that_its_codec_complains_of("tiff_lzw"), *[photo(7_000)] * 8, photo(7_001, 512)
        )
        self.shared.site.send([(self.shared.site.own("missing.jpg"), ())])
        self.shared.committed(PATIENCE_S)
        self._happens("tagstream_skips_total")
        self._happens("tagstream_dead_letters_total")
        self._happens("tagstream_coalesced_total")
        self._happens("tagstream_stderr_lines_total")
        self._happens("tagstream_renditions_total", answer="absent")

    def _store_fails(self) -> None:
        self.shared.store.lies["*"] = says(503)
        self._fresh(4)
        self._happens("tagstream_retries_total", dependency="s3")
        del self.shared.store.lies["*"]
        self.shared.committed(PATIENCE_S)

    def _cache_fails(self) -> None:
        self.shared.cache.refuse()
        self.shared.cache.cut()
        self._fresh(4)
        self._happens("tagstream_cache_errors_total")
        self.shared.cache.heal()
        self.shared.committed(PATIENCE_S)

    def _decoder_dies(self) -> None:
        os.kill(self.shared.worker.decoders()[0], signal.SIGKILL)
        self._fresh(8)
        self._happens("tagstream_decoders_lost_total")
        self.shared.committed(PATIENCE_S)

    def _partitions_move(self) -> None:
        self.shared.store.lies["*"] = says(503)
        self._fresh(16)
        other = WorkerProcess(self.shared.site, "other", self.folder, **SETTINGS)
        try:
            self._happens("tagstream_dropped_jobs_total")
        finally:
            del self.shared.store.lies["*"]
            other.terminate()
        self.shared.committed(PATIENCE_S)

    def _broker_fails(self) -> None:
        kafka, process = self.shared.site.stack.kafka, self.shared.worker
        self.shared.store.lies["*"] = says(503)
        self._fresh(8)
        eventually(lambda: process.metric("tagstream_images_in_flight") >= 8, 60, process.said)
        kafka.kill()
        del self.shared.store.lies["*"]
        try:
            self._happens("tagstream_transactions_failed_total")
        finally:
            kafka.start()
        self.shared.committed(PATIENCE_S)


@contextmanager
def failing_device(site: Site, folder: Path) -> Iterator[WorkerProcess]:
    """A running worker with a model that fails on a whole batch and gives an invalid number for one image."""
    unruly = Unruly(folder / "package")
    sound = [image_of((255, 0, 0), number) for number in range(6)]
    for number, body in enumerate([*sound, image_of(CURSED), image_of(UNCOUNTABLE)]):
        site.upload(f"{number}.png", body)
    process = WorkerProcess(site, "failing", folder, **unruly.settings())
    try:
        yield process
    finally:
        process.kill()


def fail(site: Site, process: WorkerProcess) -> None:
    eventually(lambda: process.get("/readyz")[0] == 200, PATIENCE_S, process.said)
    site.send([(site.own(f"{number}.png"), ()) for number in range(8)])
    eventually(lambda: process.metric("tagstream_batch_failures_total") > 0, PATIENCE_S, process.said)
    eventually(lambda: process.metric("tagstream_batches_total", left="alone") > 0, 60, process.said)
    eventually(lambda: site.behind() == 0, 60, process.said)
