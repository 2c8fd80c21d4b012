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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from workers.backends.clock import SystemClock
from workers.intake import Limits, ThreadIntake
from workers.intake.transform import decode
from workers.models.load import load_tagger
from workers.models.template import TemplateCaptioner
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import make_roles
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import Intake, RecordSource, Tagger
from workers.testing.memory import MemoryObjectStore, MemoryResultCache
from workers.testing.memory_broker import MemoryBroker
from workers.testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from workers.types import Pixels

IMAGES = 160
ROUNDS = 3
DECODERS = 2


def main() -> None:
    console = Console()
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    images = [photo(seed) for seed in range(IMAGES)]
    console.print(f"{IMAGES} JPEGs of 512 x 512, batches of {tagger.max_batch}, {ROUNDS} rounds in turn")
    bare, line, again = [], [], []
    for _ in range(ROUNDS):
        bare.append(_bare_loop(tagger, images))
        intake = ThreadIntake(stored(images), [tagger.transform], Limits(), decode_threads=DECODERS)
        first, second = worker_rates(tagger, images, intake)
        line.append(first)
        again.append(second)
    table = Table("", "images/s (median)", "to the bare loop, round by round")
    for name, rates in (("bare loop", bare), ("worker", line), ("worker, from the cache", again)):
        ratios = sorted(rate / other for rate, other in zip(rates, bare, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{statistics.median(rates):.0f}", spread)
    console.print(table)


def photo(seed: int) -> bytes:
    """A JPEG of 512 x 512, about as hard as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
    out = io.BytesIO()
    coarse.resize((512, 512), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


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
    """The images as objects of a bucket "b", by their numbers. Made anew it is the same, etags included."""
    store = MemoryObjectStore()
    store.make_bucket("b")
    for number, body in enumerate(images):
        store.put("b", str(number), body)
    return store


def worker_rates(tagger: Tagger, images: Sequence[bytes], intake: Intake) -> tuple[float, float]:
    """Images a second of the whole line: new images, then the same ones again. Closes the intake."""
    broker = MemoryBroker()
    for topic in ("images", "out", "dead"):
        broker.create_topic(topic, 4)
    etags = [hashlib.md5(body, usedforsecurity=False).hexdigest() for body in images]

    def publisher(source: RecordSource) -> MemoryPublisher:
        return MemoryPublisher(broker, "g", "w", membership=source.membership, output_topics=("out", "dead"))

    worker = Worker(
        source=lambda: MemoryRecordSource(broker, "g", ["images"]),
        publisher=publisher,
        intake=intake,
        cache=MemoryResultCache(),
        roles=make_roles({"tagger": tagger}, TemplateCaptioner()),
        clock=SystemClock(),
        options=WorkerOptions("out", "dead", profiles=default_profiles(tagger)),
    )
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    while not worker.ready:
        time.sleep(0.01)
    rates: list[float] = []
    for _ in range(2):
        started = time.perf_counter()
        for number, etag in enumerate(etags):
            event = {
                "schema": "image-event/1",
                "id": str(number),
                "bucket": "b",
                "key": str(number),
                "etag": etag,
                "size": len(images[number]),
            }
            broker.append("images", number % 4, None, json.dumps(event).encode())
        total = (len(rates) + 1) * len(images)
        while sum(broker.committed("g").values()) < total:
            time.sleep(0.002)
        rates.append(len(images) / (time.perf_counter() - started))
    worker.stop()
    thread.join()
    return rates[0], rates[1]
