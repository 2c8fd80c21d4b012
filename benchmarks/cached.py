"""What an event costs all of whose results are cached: one worker on real servers, beside a bare loop.

    python -m benchmarks cached                                       # EVENTS=0 or SINGLE=0 leaves one part out
    BESIDE=/another/checkout:/a/third python -m benchmarks cached     # those ones' workers too
    ALSO=TAGSTREAM_KEEP_SCORES=off python -m benchmarks cached        # a second worker of this one, set otherwise

The bare loop (`bare_loop`) is what any Python program would do with kafka-python: it reads the same records, and writes
as many messages of the same size, with their offsets in transactions or after them. The latency is that of single
events on an idle worker, from before the event is sent until a read_committed reader has its outcome; each gets one in
turn. Processor time is the worker's or the loop's alone. Where there are two processors, these have one to themselves
and the servers and the reader share the others, as far as the rest of the machine lets them. The broker has the Java
options of Kafka's own scripts, so that its code is compiled as where brokers run for long.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.line import photo
from schemas.enriched_image import EnrichedImage, read_output
from tagstream_testing.local.apache_kafka import AS_DEPLOYED
from tagstream_testing.local.server import Server
from tagstream_testing.local.stack import BUCKET, LocalStack
from tagstream_testing.local.worker_process import WorkerProcess
from workers.backends.kafka import ensure_topics

PHOTOS = 64
EVENTS = int(os.environ.get("EVENTS", "20000"))
SINGLE = int(os.environ.get("SINGLE", "200"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
"""Of each in turn; shown are the median and the range."""
PARTITIONS = 4
PAUSE_S = 0.02
"""Before a single event, in which all that follows the one before can end."""
LIMIT_S = 300.0
EVERY = os.sched_getaffinity(0)
FIRST = min(EVERY)
"""The processor that the worker has to itself."""
OTHERS = EVERY - {FIRST} or EVERY
"""Those of the servers and the reader; where there is one alone, they share it."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """Of many events at once."""

    events_s: float
    cpu_us: float


class Outcomes:
    """A read_committed reader of what comes out of one topic from now on."""

    def __init__(self, servers: str, topic: str) -> None:
        self._reader = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "-",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )
        self._reader.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])

    def await_(self, count: int) -> bytes:
        """Read so many; the last one's value."""
        value, deadline = b"", time.monotonic() + LIMIT_S
        while count > 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} outcomes did not come")
            for message in self._reader.consume(min(count, 1_000), timeout=0.1):
                assert message.error() is None, message.error()
                value, count = bytes(message.value() or b""), count - 1
        return value

    def close(self) -> None:
        self._reader.close()


def main() -> None:
    console = Console()
    console.print(
        f"{EVENTS:,} events of {PHOTOS} photos and {SINGLE} single ones, {ROUNDS} rounds in turn, "
        f"{PARTITIONS} partitions, {os.cpu_count()} processors, a load of {os.getloadavg()[0]:.0f} before"
    )
    with on_processors(OTHERS), LocalStack(broker_jvm=AS_DEPLOYED) as stack:
        stack.furnish()
        subjects = started(stack, uploaded(stack))
        if EVENTS:
            rates = [{name: subject.many() for name, subject in subjects.items()} for _ in range(ROUNDS)]
            console.print(table_of_rates(rates))
        if SINGLE:
            console.print(table_of_latencies([single_events(subjects) for _ in range(ROUNDS)]))
        for subject in subjects.values():
            subject.close()
    console.print(f"a load of {os.getloadavg()[0]:.0f} after")


def started(stack: LocalStack, events: Sequence[bytes]) -> dict[str, Subject]:
    """All that take part, by their names; the bare loop is the last of its delivery."""
    also = os.environ.get("ALSO", "")
    checkouts = {"worker": Path.cwd()} | ({f"worker, {also}": Path.cwd()} if also else {})
    for beside in filter(None, os.environ.get("BESIDE", "").split(":")):
        checkouts[f"worker of {Path(beside).name}"] = Path(beside)
    subjects: dict[str, Subject] = {}
    for delivery in ("exactly_once", "at_least_once"):
        for number, (name, checkout) in enumerate(checkouts.items()):
            topics = made_topics(stack, f"{delivery}.{number}")
            settings = worker_settings(stack, topics) | {
                "TAGSTREAM_TRANSACTIONAL_ID": topics["input"],
                "TAGSTREAM_DELIVERY": delivery,
                "cache_timeout_s": "5",  # on a machine that is busy nothing is to be computed again
            }
            if name.endswith(f", {also}") and also:
                settings |= dict([also.split("=", 1)])
            worker = Working(stack.scratch.path / topics["input"], settings, checkout)
            subject = subjects[f"{name}, {delivery}"] = Subject(stack, worker, topics, events, require_hit)
        topics = made_topics(stack, f"{delivery}.bare")
        loop = BareLoop(stack.scratch.path / topics["input"], stack.kafka.servers, delivery, topics, subject.size)
        subjects[f"{BARE}, {delivery}"] = Subject(stack, loop, topics, events)
    return subjects


BARE = "bare loop"


def single_events(subjects: Mapping[str, Subject]) -> dict[str, list[float]]:
    """Milliseconds of each of `SINGLE` events, one in turn, each time in another order: who is next finds in the
    processor's caches what the one before has left there."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(SINGLE):
        for name in random.sample(list(subjects), len(subjects)):
            time.sleep(PAUSE_S)
            found[name].append(subjects[name].single(number) * 1000)
    return found


def table_of_rates(rounds: Sequence[Mapping[str, Figures]]) -> Table:
    table = Table("many events", "events/s", "processor time an event")
    for name in rounds[0]:
        rates, used = [each[name].events_s for each in rounds], [each[name].cpu_us for each in rounds]
        table.add_row(name, spread(rates, ",.0f", ""), spread(used, ".0f", " us"))
    return table


def table_of_latencies(rounds: Sequence[Mapping[str, Sequence[float]]]) -> Table:
    table = Table("a single event", "p50", "p90", "p99", "least", "p50 to the bare loop's of its round", "p99")
    for name in rounds[0]:
        table.add_row(name, *latencies(rounds, name, f"{BARE}, {name.rpartition(', ')[2]}"))
    return table


def latencies(rounds: Sequence[Mapping[str, Sequence[float]]], name: str, base: str) -> list[str]:
    def of(who: str, share: float) -> list[float]:
        return [percentile(each[who], share) for each in rounds]

    shown = [spread(of(name, share), ".1f", " ms") for share in (0.5, 0.9, 0.99)]
    shown.append(f"{min(min(each[name]) for each in rounds):.1f} ms")
    if name != base:
        pairs = (zip(of(name, share), of(base, share), strict=True) for share in (0.5, 0.99))
        shown += [spread([ours / bare for ours, bare in pair], ".2f", "") for pair in pairs]
    return shown


def spread(values: Sequence[float], form: str, unit: str) -> str:
    """The median, and least and most."""
    middle, least, most = (f"{value:{form}}{unit}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def uploaded(stack: LocalStack, photos: int = PHOTOS) -> list[bytes]:
    """Photos in the bucket, and an event for each."""
    events = []
    store = stack.object_store()
    for number in range(photos):
        body = photo(number, 128)
        store.put(BUCKET, f"{number}.jpg", body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        event = {"schema": "image-event/1", "id": str(number), "bucket": BUCKET, "key": f"{number}.jpg", "etag": etag}
        events.append(json.dumps(event | {"size": len(body)}).encode())
    store.close()
    return events


def made_topics(stack: LocalStack, name: str) -> dict[str, str]:
    topics = {kind: f"{name}.{kind}" for kind in ("input", "output", "dead_letter")}
    ensure_topics(stack.kafka.servers, {topic: (PARTITIONS, {}) for topic in topics.values()})
    return topics


def worker_settings(stack: LocalStack, topics: Mapping[str, str]) -> dict[str, str]:
    """Of a worker with the compact tagger, whose group has the name of its input topic."""
    known = {name: value for name, value in stack.environment().items() if not name.startswith("TAGSTREAM_INDEX_")}
    return known | {  # a checkout from before the index refuses its settings
        "TAGSTREAM_GROUP": topics["input"],
        "TAGSTREAM_INPUT_TOPICS": topics["input"],
        "TAGSTREAM_OUTPUT_TOPIC": topics["output"],
        "TAGSTREAM_DEAD_LETTER_TOPIC": topics["dead_letter"],
        "TAGSTREAM_TAGGER": "compact",
        "TAGSTREAM_CAPTIONER": "template",
        "TAGSTREAM_DEVICE": "cpu",
        "TAGSTREAM_PRECISION": "fp32",
    }


class Working(WorkerProcess):
    """The worker of a checkout, this one's or another's."""

    def __init__(self, folder: Path, settings: Mapping[str, str], checkout: Path) -> None:
        super().__init__(folder, settings)
        self._checkout = checkout

    def working_folder(self) -> Path:
        return self._checkout


class BareLoop(Server):
    """`bare_loop` as a process of its own; up when it reads."""

    name: ClassVar[str] = "loop"

    def __init__(self, folder: Path, servers: str, delivery: str, topics: Mapping[str, str], size: int) -> None:
        super().__init__(folder)
        self._ready = folder / "ready"
        self._arguments = [servers, delivery, topics["input"], topics["output"], str(size), str(self._ready)]
        self._where = Path.cwd()

    def prepare(self) -> None:
        self._ready.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.bare_loop", *self._arguments]

    def working_folder(self) -> Path:
        return self._where

    def is_ready(self) -> bool:
        return self._ready.exists()


class Subject:
    """A process that makes outcomes of events and has done so for each of these, and a reader of what it publishes.

    `size` is an outcome's, in bytes.
    """

    def __init__(
        self,
        stack: LocalStack,
        process: Server,
        topics: Mapping[str, str],
        events: Sequence[bytes],
        require: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._events = events
        self._require = require
        self._input = topics["input"]
        self._process = stack.add(process)
        self._process.start()
        self._producer = Producer({"bootstrap.servers": stack.kafka.servers, "linger.ms": 0})
        self._outcomes = Outcomes(stack.kafka.servers, topics["output"])
        send(self._producer, self._input, events)
        self.size = len(self._outcomes.await_(len(events)))
        assert process.pid is not None
        self._pid = process.pid
        place(self._pid, {FIRST})

    def many(self) -> Figures:
        began, used = time.perf_counter(), cpu_s(self._pid)
        send(self._producer, self._input, [self._events[number % PHOTOS] for number in range(EVENTS)])
        self._require(self._outcomes.await_(EVENTS))
        return Figures(EVENTS / (time.perf_counter() - began), (cpu_s(self._pid) - used) / EVENTS * 1e6)

    def single(self, number: int) -> float:
        """Seconds until the outcome of one event is there."""
        began = time.perf_counter()
        send(self._producer, self._input, [self._events[number % PHOTOS]])
        outcome = self._outcomes.await_(1)
        took_s = time.perf_counter() - began
        self._require(outcome)
        return took_s

    def close(self) -> None:
        self._outcomes.close()
        self._process.stop()


def require_hit(value: bytes) -> None:
    """Raises SystemExit unless all results of this enriched image were cached."""
    image = read_output(value)
    if not (isinstance(image, EnrichedImage) and image.cache.source == image.cache.tags == "hit"):
        raise SystemExit(f"a result was not cached: {value[:2_000].decode()}")


@contextmanager
def on_processors(numbers: set[int]) -> Iterator[None]:
    """While the body runs, this process and those that it starts have these processors alone."""
    before = os.sched_getaffinity(0)
    place(os.getpid(), numbers)
    try:
        yield
    finally:
        place(os.getpid(), before)


def place(pid: int, numbers: set[int]) -> None:
    """Give a process these processors, all its threads and those that they will start."""
    for thread in threads_of(pid):
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(thread, numbers)


def threads_of(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def send(producer: Producer, topic: str, values: Sequence[bytes]) -> None:
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=number % PARTITIONS)
        if len(producer) > 50_000:
            producer.poll(0.1)
    producer.flush(60)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, without its children."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
