"""Where the processor time of an event goes whose results are cached: each part of the pipeline alone, on one thread.

    python -m benchmarks cached_parts

Servers are in memory and the stages take turns on one thread, so that no part waits for another or for the lock of the
interpreter; its processor time is what its code takes. The clients of Kafka and Redis are not in it: `cached` has those
too.
Each figure is the least of some rounds: what else the machine does can only add to it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.line import BUCKET, photo, running_worker, stored
from tagstream_testing.memory import MemoryResultCache
from tagstream_testing.memory_broker import MemoryBroker
from tagstream_testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from tests.support.inline_intake import InlineIntake
from workers.models.load import load_tagger
from workers.models.template import TemplateCaptioner
from workers.pipeline.commit.polling import Poller
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import make_roles
from workers.pipeline.stages.stage import StageQueue
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import ResultCache, SystemClock, Tagger
from workers.service.telemetry import make_telemetry
from workers.types import Assignment

PHOTOS = 64
EVENTS = 2_000
ROUNDS = 8
PARTITIONS = 4


def main() -> None:
    console = Console()
    make_telemetry(instance="bench", version="0", otlp_traces=False, otlp_metrics=False).install()
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    images = [photo(seed, 128) for seed in range(PHOTOS)]
    cache = MemoryResultCache()
    intake = InlineIntake(stored(images), [tagger.transform])
    with running_worker(tagger, images, intake, cache) as rate:
        rate()
    parts = Parts(tagger, cache, images)
    gc.collect()
    gc.freeze()  # as the worker does
    parts.run(EVENTS)
    found = least([parts.run(EVENTS) for _ in range(ROUNDS)])
    console.print(f"{EVENTS:,} events of {PHOTOS} photos, the least of {ROUNDS} rounds, processor time on one thread")
    table = Table("part", "us an event")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds / EVENTS * 1e6:.1f}")
    table.add_row("all", f"{sum(found.values()) / EVENTS * 1e6:.1f}")
    console.print(table)


def least(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each part the least seconds of any round."""
    return {name: min(of[name] for of in rounds) for name in rounds[0]}


class Parts:
    """A pipeline whose threads never start: its parts take turns here.

    Args:
        cache: has all results of the images.
    """

    def __init__(self, tagger: Tagger, cache: ResultCache, images: Sequence[bytes]) -> None:
        self._events = [event(number, body) for number, body in enumerate(images)]
        self._broker = MemoryBroker()
        for topic in ("images", "out", "dead"):
            self._broker.create_topic(topic, PARTITIONS)
        source = MemoryRecordSource(self._broker, "g", ["images"])
        publisher = MemoryPublisher(self._broker, "g", "w", membership=source.membership, output_topics=("out", "dead"))
        options = WorkerOptions(output_topic="out", dead_letter_topic="dead", profiles=default_profiles(tagger))
        worker = Worker(
            source=lambda: source,
            publisher=lambda _: publisher,
            intake=InlineIntake(stored(images), [tagger.transform]),
            cache=cache,
            roles=make_roles({"tagger": tagger}, TemplateCaptioner()),
            clock=SystemClock(),
            options=options,
        )
        pipeline = worker.make_pipeline(publisher)
        opening: StageQueue[Assignment] = StageQueue()
        opened: StageQueue[tuple[Assignment, int]] = StageQueue()
        self._parts: dict[str, Callable[[], object]] = {
            "poll": Poller(source, pipeline, options, opening, opened).step,
            "parse": pipeline.parse.work,
            "lookup": pipeline.lookup.work,
            "finish": pipeline.finish.work,
            "publish": Publishing(publisher, pipeline, options, opening, opened).step,
        }

    def run(self, count: int) -> dict[str, float]:
        """So many events from their record to their commit; the seconds that each part took."""
        for number in range(count):
            self._broker.append("images", number % PARTITIONS, None, self._events[number % len(self._events)])
        spent = dict.fromkeys(self._parts, 0.0)
        total = self._committed() + count
        while self._committed() < total:
            for name, step in self._parts.items():
                began = time.thread_time()
                step()
                spent[name] += time.thread_time() - began
        failed = self._broker.visible("dead")
        assert not failed, failed[0].headers
        return spent

    def _committed(self) -> int:
        return sum(self._broker.committed("g").values())


def event(number: int, body: bytes) -> bytes:
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
    fields = {"schema": "image-event/1", "id": str(number), "bucket": BUCKET, "key": str(number), "etag": etag}
    return json.dumps(fields | {"size": len(body)}).encode()


if __name__ == "__main__":
    main()
