"""What an event costs all of whose results are cached: one worker on real servers, beside a bare loop.

    python -m benchmarks cached

The bare loop is what any Python program would do with kafka-python: it reads the same records, and writes as many
messages of the same size in transactions of the same length, with their offsets. The latency is that of single events
on an idle worker, from before the event is sent until a read_committed reader has its outcome. Processor time is the
worker's alone. Where there are two processors, the worker (or the bare loop) has one to itself and the servers and the
reader share the others, as far as the rest of the machine lets them.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import OffsetAndMetadata
from rich.console import Console
from rich.table import Table

from benchmarks.line import photo
from schemas.enriched_image import EnrichedImage, read_output
from workers.backends.kafka import ensure_topics
from workers.local.stack import BUCKET, LocalStack
from workers.local.worker_process import WorkerProcess

PHOTOS = 64
EVENTS = 20_000
SINGLE = 200
ROUNDS = 3
"""Of each in turn; shown are the median and the range."""
PARTITIONS = 4
TRANSACTION = 500
"""Records in a transaction of the bare loop; as many as the worker puts into one at most."""
LIMIT_S = 300.0
FIRST = min(os.sched_getaffinity(0))
"""The processor that the worker has to itself."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """Of many events at once, and of single ones where these were measured."""

    events_s: float
    cpu_us: float
    singles_ms: Sequence[float] = ()


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
    found: dict[str, list[Figures]] = {}
    every = os.sched_getaffinity(0)
    with on_processors(every - {FIRST} or every), LocalStack() as stack:
        stack.furnish()
        events = uploaded(stack)
        workers = {delivery: BusyWorker(stack, delivery, events) for delivery in ("exactly_once", "at_least_once")}
        for _ in range(ROUNDS):
            for delivery, worker in workers.items():
                found.setdefault(f"worker, {delivery}", []).append(worker.figures())
            size = workers["exactly_once"].size
            found.setdefault("bare loop, transactions", []).append(of_bare_loop(stack.kafka.servers, events, size))
        for worker in workers.values():
            worker.close()
    table = Table("", "events/s", "processor time an event", "a single event, p50", "p99")
    for name, rounds in found.items():
        table.add_row(name, *cells(rounds))
    console.print(table)
    console.print(f"a load of {os.getloadavg()[0]:.0f} after")


def cells(rounds: Sequence[Figures]) -> list[str]:
    shown = [
        spread([each.events_s for each in rounds], ",.0f", ""),
        spread([each.cpu_us for each in rounds], ".0f", " us"),
    ]
    if rounds[0].singles_ms:
        shown += [
            spread([percentile(each.singles_ms, share) for each in rounds], ".1f", " ms") for share in (0.5, 0.99)
        ]
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


class BusyWorker:
    """One worker that has seen all photos, and a reader of what it publishes. `size` is an outcome's, in bytes."""

    def __init__(self, stack: LocalStack, delivery: str, events: Sequence[bytes]) -> None:
        topics = {name: f"{delivery}.{name}" for name in ("input", "output", "dead_letter")}
        servers = stack.kafka.servers
        ensure_topics(servers, {topic: (PARTITIONS, {}) for topic in topics.values()})
        settings = stack.environment() | {
            "TAGSTREAM_GROUP": delivery,
            "TAGSTREAM_TRANSACTIONAL_ID": delivery,
            "TAGSTREAM_DELIVERY": delivery,
            "TAGSTREAM_INPUT_TOPICS": topics["input"],
            "TAGSTREAM_OUTPUT_TOPIC": topics["output"],
            "TAGSTREAM_DEAD_LETTER_TOPIC": topics["dead_letter"],
            "TAGSTREAM_TAGGER": "compact",
            "TAGSTREAM_CAPTIONER": "template",
            "TAGSTREAM_DEVICE": "cpu",
            "TAGSTREAM_PRECISION": "fp32",
            "TAGSTREAM_CACHE_TIMEOUT_S": "5",  # on a machine that is busy nothing is to be computed again
        }
        self._events = events
        self._input = topics["input"]
        self._worker = stack.add(WorkerProcess(stack.scratch.path / delivery, settings))
        self._worker.start()
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
        self._outcomes = Outcomes(servers, topics["output"])
        send(self._producer, self._input, events)
        self.size = len(self._outcomes.await_(len(events)))
        assert self._worker.pid is not None
        self._pid = self._worker.pid
        place(self._pid, {FIRST})

    def figures(self) -> Figures:
        began, used = time.perf_counter(), cpu_s(self._pid)
        send(self._producer, self._input, [self._events[number % PHOTOS] for number in range(EVENTS)])
        require_hit(self._outcomes.await_(EVENTS))
        rate, cpu_us = EVENTS / (time.perf_counter() - began), (cpu_s(self._pid) - used) / EVENTS * 1e6
        singles = []
        for number in range(SINGLE):
            time.sleep(0.02)
            began = time.perf_counter()
            send(self._producer, self._input, [self._events[number % PHOTOS]])
            self._outcomes.await_(1)
            singles.append((time.perf_counter() - began) * 1000)
        return Figures(rate, cpu_us, singles)

    def close(self) -> None:
        self._outcomes.close()
        self._worker.stop()


def of_bare_loop(servers: str, events: Sequence[bytes], size: int) -> Figures:
    """The same records in, messages of this size out."""
    ensure_topics(servers, {topic: (PARTITIONS, {}) for topic in ("bare.input", "bare.output")})
    send(Producer({"bootstrap.servers": servers}), "bare.input", [events[n % PHOTOS] for n in range(EVENTS)])
    with bare_clients(servers) as (consumer, producer), on_processors({FIRST}):
        value, left = b"x" * size, EVENTS
        began, used = time.perf_counter(), time.process_time()
        while left > 0:
            batches = consumer.poll(timeout_ms=1_000, max_records=TRANSACTION)
            if not batches:
                continue
            producer.begin_transaction()
            for partition, records in batches.items():
                for record in records:
                    producer.send("bare.output", value, record.key, partition=partition.partition)
                left -= len(records)
            offsets = {at: OffsetAndMetadata(records[-1].offset + 1, "", -1) for at, records in batches.items()}
            producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
            producer.commit_transaction()
        return Figures(EVENTS / (time.perf_counter() - began), (time.process_time() - used) / EVENTS * 1e6)


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
        os.sched_setaffinity(thread, numbers)


def threads_of(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


@contextmanager
def bare_clients(servers: str) -> Iterator[tuple[KafkaConsumer, KafkaProducer]]:
    consumer = KafkaConsumer(
        "bare.input",
        bootstrap_servers=servers,
        group_id="bare",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id="bare", linger_ms=5)
    try:
        producer.init_transactions()
        while not consumer.assignment():
            consumer.poll(timeout_ms=100, max_records=1)
        consumer.seek_to_beginning()
        yield consumer, producer
    finally:
        producer.close()
        consumer.close()


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
