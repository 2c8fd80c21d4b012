"""New photos on real servers: one worker beside a bare loop, and one, two and four workers beside each other.

    python -m benchmarks photos             # a model that costs nothing, the compact tagger, RAM at its full size
    APART=1 python -m benchmarks photos     # worker and loop on a processor of their own, the servers on the others
    python -m benchmarks scaling            # a model that sleeps, with 1, 2 and 4 workers

The bare loop is the script that does the least: its threads GET and decode ahead of the model, which tags batches as
large as the worker's. It reads no events, keeps no order, publishes and caches nothing. Both use the same client of
the store, the same decoder and the same model. They take turns; no photo comes twice. Both have all processors, which
the servers share with them; or with `APART` one processor that nothing else has, so that the figure is the worker's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from confluent_kafka import Producer
from minio import Minio
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import simulated
from benchmarks.cached import (
    EVERY,
    FIRST,
    OTHERS,
    Outcomes,
    cpu_s,
    made_topics,
    on_processors,
    send,
    spread,
    threads_of,
    worker_settings,
)
from benchmarks.line import numbered
from benchmarks.models import cache_folder, full_size
from tagstream_testing.local.stack import BUCKET, LocalStack
from tagstream_testing.local.worker_process import WorkerProcess
from workers.intake.transform import decode
from workers.models.bundle import Bundle
from workers.models.device import Precision
from workers.models.load import load_tagger
from workers.models.manifest import Manifest, Provenance
from workers.ports import Tagger
from workers.types import Pixels, Transform

PHOTOS = int(os.environ.get("PHOTOS", "400"))
RAM_PHOTOS = int(os.environ.get("RAM_PHOTOS", "24"))
"""Of RAM, which takes a second for an image where the compact tagger takes 20 ms."""
ROUNDS = int(os.environ.get("ROUNDS", "5"))
APART = bool(os.environ.get("APART"))
GET_THREADS = 4
WORKERS = (1, 2, 4)
SLEEP_S = 0.1
"""Of an image, in `scaling`: four workers tag 40 images a second, and the processors are idle half of the time."""


@dataclass(frozen=True)
class Model:
    """What tags in the worker and in the bare loop; `here`: that loop's own, None if there is nothing to compute."""

    name: str
    photos: int
    settings: Mapping[str, str]
    here: Callable[[], Tagger] | None = None


@dataclass(frozen=True)
class Figures:
    """Of one round."""

    images_s: float
    cpu_ms: float


@dataclass(frozen=True)
class Work:
    """Called, it has these workers tag so many new photos, and gives the figures."""

    workers: Sequence[WorkerProcess]
    tag: Callable[[int], Figures]

    def __call__(self, images: int) -> Figures:
        return self.tag(images)


def main() -> None:
    console = Console()
    share = "one for worker or loop, the others for the servers" if APART else "for worker or loop and the servers"
    console.print(f"new JPEGs of some 110 kB, {ROUNDS} rounds in turn, {len(EVERY)} processors: {share}")
    table = Table("", "photos", "images/s (median)", "processor time an image", "to the bare loop, round by round")
    with on_processors(OTHERS if APART else EVERY), LocalStack() as stack:
        stack.furnish()
        ram = str(full_size("ram", cache_folder()).folder)
        for model in (
            Model(simulated.KIND, PHOTOS, made_simulated(stack.scratch.path / simulated.KIND)),
            Model("compact", PHOTOS, of_tagger("compact", "fp32"), lambda: warm("compact", "fp32")),
            Model("RAM-bf16", RAM_PHOTOS, of_tagger(ram, "bf16"), lambda: warm(ram, "bf16")),
        ):
            bare, line = [], []
            with measured():
                tagger = model.here() if model.here is not None else None
            with running_workers(stack, model.name, 1, model.settings) as work:
                work(8)
                for _ in range(ROUNDS):
                    photos = uploaded(stack, model.photos)
                    with measured():
                        bare.append(of_bare_loop(stack, tagger, photos))
                    line.append(work(model.photos))
            ratios = [ours.images_s / loop.images_s for ours, loop in zip(line, bare, strict=True)]
            table.add_row(f"bare loop, {model.name}", f"{model.photos}", *cells(bare), "")
            table.add_row(f"worker, {model.name}", f"{model.photos}", *cells(line), spread(ratios, ".2f", ""))
    console.print(table)


def of_tagger(name: str, precision: Precision) -> dict[str, str]:
    """A worker's settings for this tagger."""
    return {"TAGSTREAM_TAGGER": name, "TAGSTREAM_PRECISION": precision}


def measured() -> AbstractContextManager[None]:
    """While the body runs, this process and those that it starts have the processors of a worker or the loop."""
    return on_processors({FIRST} if APART else EVERY)


def warm(name: str, precision: Precision) -> Tagger:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tagger = load_tagger(name, device="cpu", precision=precision)
    tagger.warm_up()
    return tagger


def scaling() -> None:
    console = Console()
    console.print(f"{PHOTOS} new JPEGs a worker, a model that sleeps {SLEEP_S * 1000:.0f} ms an image, {ROUNDS} rounds")
    table = Table("workers", "images/s (median)", "processors in use", "of linear, round by round")
    rates: dict[int, list[float]] = {count: [] for count in WORKERS}
    busy: dict[int, list[float]] = {count: [] for count in WORKERS}
    with LocalStack() as stack:
        stack.furnish()
        sleeping = made_simulated(stack.scratch.path / simulated.KIND, SLEEP_S)
        for number in range(ROUNDS):
            for count in WORKERS:
                with running_workers(stack, f"{count}-of-round-{number}", count, sleeping) as work:
                    work(8 * count)
                    before = processors_s()
                    rates[count].append(work(PHOTOS * count).images_s)
                    used, of = (now - then for now, then in zip(processors_s(), before, strict=True))
                    busy[count].append(used / of)
    for count in WORKERS:
        rate, use = statistics.median(rates[count]), statistics.median(busy[count])
        shares = [each / (count * one) for each, one in zip(rates[count], rates[WORKERS[0]], strict=True)]
        table.add_row(f"{count}", f"{rate:.0f}", f"{use:.0%}", spread(shares, ".2f", ""))
    console.print(table)


def cells(found: Sequence[Figures]) -> list[str]:
    return [
        f"{statistics.median(each.images_s for each in found):.1f}",
        f"{statistics.median(each.cpu_ms for each in found):.1f} ms",
    ]


def photo(seed: int) -> bytes:
    """A JPEG of some 110 kB and 800 x 600 pixels; no two seeds give the same."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))
    fine = np.asarray(coarse.resize((800, 600), Image.Resampling.BICUBIC)) + rng.normal(0, 5, (600, 800, 1))
    out = io.BytesIO()
    Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


_DRAWN: list[bytes] = []
_uploads = 0


def uploaded(stack: LocalStack, count: int) -> list[bytes]:
    """New photos in the bucket, and an event for each. They differ from all before in a comment."""
    global _uploads
    while len(_DRAWN) < min(count, PHOTOS):
        _DRAWN.append(photo(len(_DRAWN)))
    events = []
    store = stack.object_store()
    for number in range(count):
        _uploads += 1
        body = numbered(_DRAWN[number % len(_DRAWN)], _uploads)
        key = f"{_uploads}.jpg"
        store.put(BUCKET, key, body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        event = {"schema": "image-event/1", "id": key, "bucket": BUCKET, "key": key, "etag": etag, "size": len(body)}
        events.append(json.dumps(event).encode())
    store.close()
    return events


@contextmanager
def running_workers(stack: LocalStack, name: str, count: int, model: Mapping[str, str]) -> Iterator[Work]:
    """Workers of one group."""
    topics = made_topics(stack, name)
    servers = stack.kafka.servers
    settings = worker_settings(stack, topics) | {"TAGSTREAM_CAPTIONER": "none", **model}
    workers = []
    for number in range(count):
        own = settings | {"TAGSTREAM_TRANSACTIONAL_ID": f"{name}-{number}"}
        workers.append(stack.add(WorkerProcess(stack.scratch.path / f"{name}-{number}", own)))
    with measured():
        for worker in workers:
            worker.launch()
    for worker in workers:
        worker.wait()
    producer, outcomes = Producer({"bootstrap.servers": servers, "linger.ms": 0}), Outcomes(servers, topics["output"])

    def work(images: int) -> Figures:
        events = uploaded(stack, images)
        pids = [pid for worker in workers if (pid := worker.pid) is not None]
        used, began = sum(map(tree_cpu_s, pids)), time.perf_counter()
        send(producer, topics["input"], events)
        outcomes.await_(len(events))
        rate = len(events) / (time.perf_counter() - began)
        return Figures(rate, (sum(map(tree_cpu_s, pids)) - used) / len(events) * 1000)

    try:
        yield Work(workers, work)
    finally:
        outcomes.close()
        for worker in workers:
            worker.stop()


def tree_cpu_s(pid: int) -> float:
    """Processor time so far of a process and of the children that it has now."""
    children = [int(child) for thread in threads_of(pid) for child in _children_of(pid, thread)]
    return cpu_s(pid) + sum(map(tree_cpu_s, children))


def _children_of(pid: int, thread: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{thread}/children").read_text().split()


def processors_s() -> tuple[float, float]:
    """Time that the machine's processors were in use so far, and all of it."""
    with open("/proc/stat") as stat:
        times = [int(each) for each in stat.readline().split()[1:9]]
    return float(sum(times) - times[3] - times[4]), float(sum(times))


def of_bare_loop(stack: LocalStack, tagger: Tagger | None, events: Sequence[bytes]) -> Figures:
    """The same photos, got, decoded and tagged; without a tagger, got and decoded."""
    s3 = stack.s3
    client = Minio(
        s3.endpoint_url.removeprefix("http://"), s3.access_key, s3.secret_key, secure=False, region=s3.region
    )
    transform = tagger.transform if tagger is not None else Transform(simulated.SIDE)
    batch = tagger.max_batch if tagger is not None else simulated.BATCH

    def got(key: str) -> Pixels:
        answer = client.get_object(BUCKET, key)
        try:
            body = answer.read()
        finally:
            answer.close()
            answer.release_conn()
        return decode(body, "jpeg", [transform]).pixels[transform]

    keys = [json.loads(event)["key"] for event in events]
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(GET_THREADS) as pool:
        pixels = pool.map(got, keys)
        while images := list(islice(pixels, batch)):
            if tagger is not None:
                for raw in tagger.forward(images):
                    tagger.postprocess(raw)
    rate = len(keys) / (time.perf_counter() - began)
    return Figures(rate, (time.process_time() - used) / len(keys) * 1000)


def made_simulated(folder: Path, sleep_s: float = 0.0) -> dict[str, str]:
    """A worker's settings for the simulated model, whose package is in this folder as if it were installed."""
    folder.mkdir()
    shutil.copy(simulated.__file__, folder / "simulated.py")
    facts = folder / "simulated-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: simulated\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[tagstream.models]\n{simulated.KIND} = simulated\n")
    manifest = Manifest(
        kind=simulated.KIND,
        name=simulated.KIND,
        provenance=Provenance(source="made for a benchmark"),
        transform=Transform(simulated.SIDE),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    Bundle.write(folder / "bundle", manifest, weights={"none": torch.zeros(1)}, labels=simulated.LABELS)
    return of_tagger(str(folder / "bundle"), "fp32") | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[1])]),
        "SIMULATED_S": f"{sleep_s}",
    }


if __name__ == "__main__":
    main()
