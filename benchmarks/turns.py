"""What an image that wants only tags waits for beside a slow added role: in batches of its own, and mixed with it.

A worker in memory tags photos of one partition, which come one by one, while another partition has a backlog of photos
that also want the result of a role which takes the device `SLOW_S` an image.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from benchmarks.line import BUCKET, DECODERS, photo, stored
from schemas.result_kinds import ResultKind
from tagstream_testing.memory import MemoryResultCache
from tagstream_testing.memory_broker import MemoryBroker
from tagstream_testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from workers.intake import Limits, ProcessIntake
from workers.models.load import load_tagger
from workers.pipeline.kind_role import KindRole
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import Roles, make_roles
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import RecordSource, SystemClock, Tagger
from workers.types import ImageAbout, Pixels, Transform

SLOW_S = 0.3
"""As long as text takes in a photograph on a core."""
SINGLE = 20
EVERY_S = 0.25
BACKLOG = 60
ROUNDS = 3


class _Waited(BaseModel):
    seconds: float


class _SlowKind(ResultKind):
    name = "slow"
    result = _Waited
    bundle_kind = "slow"

    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        raise NotImplementedError


class _Slow:
    """A model that waits, as for a device."""

    name = "slow"
    digest = "5" * 64
    precision = "fp32"
    max_batch = 8
    random_weights = False
    transform = Transform(960, "pad")

    def warm_up(self) -> None:
        return

    def self_test_image(self) -> Pixels:
        raise NotImplementedError

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> Sequence[float]:
        time.sleep(SLOW_S * len(images))
        return [SLOW_S] * len(images)

    def postprocess(self, raw: float) -> _Waited:
        return _Waited(seconds=raw)


def main() -> None:
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for name, backlog, mixed in (("alone", 0, False), ("beside", BACKLOG, False), ("mixed", BACKLOG, True)):
            roles = make_roles({"tagger": tagger}, added=[KindRole(_SlowKind(), _Slow())])
            if mixed:
                roles.added = ()
            waited = waits(tagger, roles, backlog, "slow")
            found.setdefault(name, []).append((statistics.median(waited), max(waited)))
    show(f"a role of {SLOW_S} s an image", found)


def show(title: str, found: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Print a row for each name, of the rounds' medians and longest waits in seconds."""
    table = Table(title, "p50, ms", "longest, ms")
    for name, rounds in found.items():
        table.add_row(name, *(_range([each[place] for each in rounds]) for place in (0, 1)))
    Console().print(table)


def _range(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ({1000 * min(seconds):.0f} to {1000 * max(seconds):.0f})"


def waits(tagger: Tagger, roles: Roles, backlog: int, want: str) -> list[float]:
    """Seconds from each single event that wants tags to its outcome.

    Args:
        backlog: images of another partition, which want this result too.
    """
    images = [photo(seed) for seed in range(SINGLE + backlog)]
    broker = MemoryBroker()
    for topic in ("images", "out", "dead"):
        broker.create_topic(topic, 2)
    worker = _worker(tagger, roles, images, broker)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    while not worker.ready:
        _rest(thread, 0.01)
    try:
        for number in range(SINGLE, SINGLE + backlog):
            _send(broker, 1, number, sorted({"tags", want}))
        time.sleep(3)
        return [_wait(broker, thread, number) for number in range(SINGLE)]
    finally:
        worker.stop()
        thread.join()


def _worker(tagger: Tagger, roles: Roles, images: Sequence[bytes], broker: MemoryBroker) -> Worker:
    def publisher(source: RecordSource) -> MemoryPublisher:
        return MemoryPublisher(broker, "g", "w", membership=source.membership, output_topics=("out", "dead"))

    transforms = [role.model.transform for role in roles.kept]
    return Worker(
        source=lambda: MemoryRecordSource(broker, "g", ["images"]),
        publisher=publisher,
        intake=ProcessIntake(stored(images), transforms, Limits(), children=DECODERS),
        cache=MemoryResultCache(),
        roles=roles,
        clock=SystemClock(),
        options=WorkerOptions(
            output_topic="out", dead_letter_topic="dead", profiles=default_profiles(tagger), self_test_s=0, drain_s=1
        ),
    )


def _send(broker: MemoryBroker, partition: int, number: int, want: Sequence[str]) -> None:
    event = {"schema": "image-event/1", "id": f"{number}", "bucket": BUCKET, "key": f"{number}"}
    broker.append("images", partition, None, json.dumps({**event, "options": {"want": want}}).encode())


def _wait(broker: MemoryBroker, thread: threading.Thread, number: int) -> float:
    """Send one event, wait for its commit, and rest until the next one is due."""
    started = time.perf_counter()
    _send(broker, 0, number, ["tags"])
    while _committed(broker) <= number:
        _rest(thread, 0.001)
    waited = time.perf_counter() - started
    time.sleep(max(0.0, EVERY_S - waited))
    return waited


def _rest(worker: threading.Thread, seconds: float) -> None:
    if not worker.is_alive():
        raise SystemExit("the worker ended early")
    time.sleep(seconds)


def _committed(broker: MemoryBroker) -> int:
    return sum(offset for partition, offset in broker.committed("g").items() if partition.number == 0)
