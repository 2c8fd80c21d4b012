"""What the line costs: the whole worker against a bare loop that decodes and tags the same images.

Both run on the same images with the same model, threads and batch size, in turn, in one process; dependencies are in
memory, so that only our own work is measured. The bare loop does what a script would: decode with a pool, batch, tag,
and nothing else: no order, no commits, no cache, no events.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from tagstream_testing.memory import MemoryObjectStore, MemoryResultCache
from tagstream_testing.memory_broker import MemoryBroker
from tagstream_testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from workers.intake import Limits, ProcessIntake
from workers.intake.transform import decode
from workers.models.load import load_tagger
from workers.models.template import TemplateCaptioner
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import Roles, make_roles
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import Intake, RecordSource, ResultCache, SystemClock, Tagger
from workers.types import Pixels

IMAGES = 160
ROUNDS = 3
DECODERS = 2
BUCKET = "photos"


def main() -> None:
    console = Console()
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    images = [photo(seed) for seed in range(IMAGES)]
    console.print(f"{IMAGES} JPEGs of 512 x 512, batches of {tagger.max_batch}, {ROUNDS} rounds in turn")
    bare, line, again = [], [], []
    for _ in range(ROUNDS):
        bare.append(_bare_loop(tagger, images))
        intake = ProcessIntake(stored(images), [tagger.transform], Limits(), children=DECODERS)
        first, second = worker_rates(tagger, images, intake)
        line.append(first)
        again.append(second)
    table = Table("", "images/s (median)", "to the bare loop, round by round")
    for name, rates in (("bare loop", bare), ("worker", line), ("worker, from the cache", again)):
        ratios = sorted(rate / other for rate, other in zip(rates, bare, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{statistics.median(rates):.0f}", spread)
    console.print(table)


def photo(seed: int, side: int = 512) -> bytes:
    """A square JPEG, about as hard as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
    out = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same photo as other bytes: with its number as a comment."""
    comment = f"{number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _bare_loop(tagger: Tagger, images: Sequence[bytes]) -> float:
    """Images a second. Decoding runs ahead of the model, as any sensible script would do it."""

    def decoded(body: bytes) -> Pixels:
        return decode(body, "jpeg", [tagger.transform]).pixels[tagger.transform]

    started = time.perf_counter()
    with ThreadPoolExecutor(DECODERS) as pool:
        pixels = pool.map(decoded, images)
        while batch := list(islice(pixels, tagger.max_batch)):
            for raw in tagger.forward(batch):
                tagger.postprocess(raw)
    return len(images) / (time.perf_counter() - started)


def stored(images: Sequence[bytes]) -> MemoryObjectStore:
    """The images as objects of the bucket, by their numbers. Made anew it is the same, etags included."""
    store = MemoryObjectStore()
    store.make_bucket(BUCKET)
    for number, body in enumerate(images):
        store.put(BUCKET, str(number), body)
    return store


def worker_rates(tagger: Tagger, images: Sequence[bytes], intake: Intake) -> tuple[float, float]:
    """Images a second of the whole worker: new images, then the same ones again. Closes the intake."""
    with running_worker(tagger, images, intake, MemoryResultCache()) as rate:
        return rate(), rate()


@contextmanager
def running_worker(
    tagger: Tagger, images: Sequence[bytes], intake: Intake, cache: ResultCache, roles: Roles | None = None
) -> Iterator[Callable[..., float]]:
    """A worker that waits for events. Each call sends one for each image, with these `options`, and gives the images a
    second until all are committed. Closes the intake."""
    broker = MemoryBroker()
    for topic in ("images", "out", "dead"):
        broker.create_topic(topic, 4)
    etags = [hashlib.md5(body, usedforsecurity=False).hexdigest() for body in images]

    def publisher(source: RecordSource) -> MemoryPublisher:
        return MemoryPublisher(broker, "g", "w", membership=source.membership, output_topics=("out", "dead"))

    def rate(**options: object) -> float:
        total = sum(broker.committed("g").values()) + len(images)
        started = time.perf_counter()
        for number, etag in enumerate(etags):
            event = {
                "schema": "image-event/1",
                "id": str(number),
                "bucket": BUCKET,
                "key": str(number),
                "etag": etag,
                "size": len(images[number]),
                "options": options,
            }
            broker.append("images", number % 4, None, json.dumps(event).encode())
        while sum(broker.committed("g").values()) < total:
            _check_alive(thread)
            time.sleep(0.002)
        failed = broker.visible("dead")
        assert not failed, failed[0].headers
        return len(images) / (time.perf_counter() - started)

    worker = Worker(
        source=lambda: MemoryRecordSource(broker, "g", ["images"]),
        publisher=publisher,
        intake=intake,
        cache=cache,
        roles=roles or make_roles({"tagger": tagger}, TemplateCaptioner()),
        clock=SystemClock(),
        options=WorkerOptions(output_topic="out", dead_letter_topic="dead", profiles=default_profiles(tagger)),
    )
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    while not worker.ready:
        _check_alive(thread)
        time.sleep(0.01)
    try:
        yield rate
    finally:
        worker.stop()
        thread.join()


def _check_alive(thread: threading.Thread) -> None:
    """A worker that ended has written why; nothing is to be waited for any more."""
    if not thread.is_alive():
        raise SystemExit("the worker ended early")
