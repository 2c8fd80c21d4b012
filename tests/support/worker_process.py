"""Real worker processes on real servers, and an independent reader of their outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from PIL import Image

from schemas.dead_letter import DeadLetter, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from tests.fixtures import Stack
from tests.support.broker import await_markers, lag, publish
from tests.support.forked import MayFork
from tests.support.images import encoded
from tests.support.processes import children
from tests.support.waiting import eventually
from workers.assembly.auditing import Auditing
from workers.audit.report import AuditReport
from workers.backends.kafka import ensure_topics
from workers.backends.s3.store import MinioObjectStore
from workers.environment import read
from workers.errors import Unavailable
from workers.types import Headers, Message

Coordinates = tuple[int, int, int]
"""(partition, offset, index) in the input topic."""


def photo(seed: int, side: int = 64) -> bytes:
    """A JPEG of noise over a colour: no two seeds give the same bytes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (side, side, 3)) + rng.integers(0, 170, 3)
    return encoded(Image.fromarray(pixels.astype(np.uint8)), "jpeg", quality=90)


@dataclass(frozen=True)
class Seen:
    """One record of an output topic, as an independent read_committed client gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers


def settings_of(stack: Stack, name: str) -> dict[str, str]:
    """A worker's, for a group, a bucket and topics of this name."""
    return {
        "TAGSTREAM_KAFKA_SERVERS": stack.kafka.servers,
        "TAGSTREAM_GROUP": name,
        "TAGSTREAM_INPUT_TOPICS": f"{name}.images",
        "TAGSTREAM_OUTPUT_TOPIC": f"{name}.enriched",
        "TAGSTREAM_DEAD_LETTER_TOPIC": f"{name}.dead",
        "TAGSTREAM_SKIPPED_TOPIC": f"{name}.skipped",
        "TAGSTREAM_S3_ENDPOINT": stack.s3.endpoint_url,
        "TAGSTREAM_S3_ACCESS_KEY": stack.s3.access_key,
        "TAGSTREAM_S3_SECRET_KEY": stack.s3.secret_key,
        "TAGSTREAM_BUCKETS": name,
        "TAGSTREAM_REDIS_URL": stack.valkey.url,
        "TAGSTREAM_TAGGER": "compact",
        "TAGSTREAM_CAPTIONER": "template",
        "TAGSTREAM_DEVICE": "cpu",
        "TAGSTREAM_PRECISION": "fp32",
        "TAGSTREAM_MAX_BATCH": "8",
    }


@dataclass
class Site:
    stack: Stack
    name: str
    partitions: int = 4
    workers: list[WorkerProcess] = field(default_factory=list)
    """Every one that was ever started here."""

    def __post_init__(self) -> None:
        self.images, self.enriched = f"{self.name}.images", f"{self.name}.enriched"
        self.dead, self.skipped = f"{self.name}.dead", f"{self.name}.skipped"
        ensure_topics(
            self.stack.kafka.servers,
            {
                self.images: (self.partitions, {}),
                self.enriched: (3, {}),
                self.dead: (1, {"compression.type": "zstd"}),
                self.skipped: (1, {}),
            },
        )
        s3 = self.stack.s3
        self.store = MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key)
        self.store.make_bucket(self.name)

    def settings(self, replica: str) -> dict[str, str]:
        return settings_of(self.stack, self.name) | {"TAGSTREAM_TRANSACTIONAL_ID": f"{self.name}-{replica}"}

    def upload(self, key: str, body: bytes) -> str:
        return self.store.put(self.name, key, body)

    def own(self, key: str, **more: Any) -> bytes:
        event = {"schema": "image-event/1", "id": f"id-{key}", "bucket": self.name, "key": key, **more}
        return json.dumps(event).encode()

    def send(self, values: Sequence[tuple[bytes | None, Headers]]) -> None:
        """Send in order, spread over the partitions by key."""
        messages = (Message(self.images, f"key-{n}".encode(), *each) for n, each in enumerate(values))
        publish(self.stack.kafka.servers, messages)

    def send_photos(self, numbers: range) -> None:
        """Upload the photo of each number, and send its event."""
        for number in numbers:
            self.upload(f"{number}.jpg", photo(number))
        self.send([(self.own(f"{number}.jpg"), ()) for number in numbers])

    def read(self, topic: str) -> list[Seen]:
        """All records of a topic for a read_committed reader, partition by partition in offset order."""
        await_markers(self.stack.kafka.servers)
        reader = Consumer(
            {
                "bootstrap.servers": self.stack.kafka.servers,
                "group.id": "reads-all",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,  # else the end of a partition takes half a second
                "auto.offset.reset": "earliest",
            }
        )
        try:
            numbers = _partitions(reader, topic)
            reader.assign([TopicPartition(topic, number, 0) for number in numbers])
            found: list[Seen] = []
            ended: set[int] = set()
            while len(ended) < len(numbers):
                message = reader.poll(60.0)
                assert message is not None, f"nothing more came of {topic}"
                error = message.error()
                if error is not None:
                    if error.code() != -191:  # the end of a partition, or the start of an open transaction
                        raise KafkaException(error)
                    ended.add(message.partition() or 0)
                    continue
                headers = tuple((str(name), _bytes(value)) for name, value in list(message.headers() or []))
                place = (message.partition() or 0, message.offset() or 0)
                found.append(Seen(topic, *place, _bytes(message.key()), _bytes(message.value()) or b"", headers))
            return sorted(found, key=lambda seen: (seen.partition, seen.offset))
        finally:
            reader.close()

    def outputs(self) -> list[EnrichedImage | Retraction | Skip]:
        found = [seen for topic in (self.enriched, self.skipped) for seen in self.read(topic)]
        return [read_output(seen.value) for seen in found if seen.value]  # a tombstone has no schema

    def enriched_images(self) -> list[EnrichedImage]:
        return [output for output in self.outputs() if isinstance(output, EnrichedImage)]

    def letters(self) -> list[DeadLetter]:
        return [read_dead_letter_headers(seen.headers) for seen in self.read(self.dead)]

    def outcomes(self) -> list[Coordinates]:
        """The coordinates of every outcome there is: the delivery invariant is checked by this list, never by ids."""
        found = [(o.event.partition, o.event.offset, o.event.index) for o in self.outputs()]
        for dead_letter in self.letters():
            found += [
                (dead_letter.partition, dead_letter.offset + number, failure.index)
                for number in range(max(1, len(dead_letter.keys)))
                for failure in dead_letter.failures
            ]
        return sorted(found)

    def behind(self) -> int:
        behind = lag(self.stack.kafka.servers, self.name, [self.images])
        return sum(1 if offsets is None else offsets for offsets in behind.values())

    def committed(self) -> int:
        """Offsets of the input topic that the group has committed."""
        asker = Consumer({"bootstrap.servers": self.stack.kafka.servers, "group.id": self.name})
        try:
            places = asker.committed([TopicPartition(self.images, each) for each in range(self.partitions)], timeout=60)
        except KafkaException as error:
            raise Unavailable("kafka", f"what {self.name} has committed: {error}") from error
        finally:
            asker.close()
        return sum(max(0, place.offset) for place in places)

    def inputs(self) -> list[Coordinates]:
        """Coordinates of every record of the input topic, of one event each."""
        return sorted((seen.partition, seen.offset, 0) for seen in self.read(self.images))

    def assert_in_order(self) -> None:
        """Order is promised per (input partition, output partition)."""
        places: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
        for topic in (self.enriched, self.skipped):
            for seen in filter(lambda seen: seen.value, self.read(topic)):
                event = read_output(seen.value).event
                places.setdefault((topic, event.partition, seen.partition), []).append((event.offset, event.index))
        for seen in self.read(self.dead):
            dead_letter = read_dead_letter_headers(seen.headers)
            places.setdefault((self.dead, dead_letter.partition, seen.partition), []).append((dead_letter.offset, 0))
        assert places
        for events in places.values():
            assert events == sorted(events)

    def audit(self, **settings: str) -> AuditReport:
        """The product's own opinion on the same topics."""
        return Auditing(read(self.settings("audit") | settings), (), (), None, None).run()

    def assert_within_budgets(self) -> None:
        """No worker here ever held more bytes in flight than its budgets allow, in any sample."""
        peaks = [peak for process in self.workers for peak in process.budget_peaks.items()]
        assert peaks or not self.workers, "no worker was asked what it holds"
        for name, (held, limit) in peaks:
            assert held <= limit, f"{held:,.0f} bytes of the {limit:,.0f} of the {name} budget"


def _partitions(reader: Consumer, topic: str) -> list[int]:
    """Once the broker tells them: one that was held up for seconds knows, for a moment, of no leader."""
    told: list[Any] = []

    def known() -> bool:
        told.append(reader.list_topics(topic, timeout=30).topics[topic])
        return told[-1].error is None and bool(told[-1].partitions)

    eventually(known, 60, lambda: f"the partitions of {topic}: {told[-1].error}")
    return list(told[-1].partitions)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


class WorkerProcess(MayFork):
    """`tagstream run` for one site, launched at once; `wait` or `wait_ready` sees it up."""

    stops_within_s: ClassVar[float] = 40.0
    inherits: ClassVar[Collection[str]] = ()

    def __init__(
        self, site: Site, replica: str, folder: Path, *, arguments: Sequence[str] = (), **settings: str
    ) -> None:
        own = folder / replica
        own.mkdir(exist_ok=True)
        super().__init__(own, site.settings(replica) | settings, arguments)
        self.budget_peaks: dict[str, tuple[float, float]] = {}
        """By budget: the most bytes that it ever held and its size, when /metrics was last read."""
        self._site = site
        site.workers.append(self)
        self.launch()

    def environment(self) -> Mapping[str, str]:
        """A test chooses every setting, and no trace goes anywhere unless it says so."""
        return {k: v for k, v in super().environment().items() if not k.startswith("OTEL_")} | self._settings

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text; status 0 when nothing answers."""
        try:
            with urlopen(f"{self.url}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except URLError as error:
            return getattr(error, "code", 0), ""
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        samples = [_sample(line) for line in self.get("/metrics")[1].splitlines() if line[:1] not in "#"]
        for budget in ("encoded", "decoded"):
            of_budget = {what: value for what, has, value in samples if has.get("budget") == budget}
            if "tagstream_budget_peak_bytes" in of_budget:
                limit = of_budget["tagstream_budget_limit_bytes"]
                self.budget_peaks[budget] = (of_budget["tagstream_budget_peak_bytes"], limit)
        return sum(value for what, has, value in samples if what == name and labels.items() <= has.items())

    def wait_ready(self) -> None:
        eventually(lambda: self.get("/readyz")[0] == 200 or not self.running, 120, self.said)
        assert self.running, self.said()

    def wait_gone(self, timeout_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        eventually(lambda: not self.running, timeout_s, self.said)
        assert self.exit_code is not None
        return self.exit_code

    def decoders(self) -> list[int]:
        """Its processes that decode: the children of its fork server."""
        assert self.pid is not None
        return [child for fork_server in children(self.pid) for child in children(fork_server)]

    def peak_memory(self) -> int:
        """The most bytes that it ever had in memory, its children not counted."""
        assert self.pid is not None
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(peak) * 1024

    def terminate(self) -> int | None:
        """SIGTERM, and its exit code; killed (-9) when it takes longer than `stops_within_s`."""
        self.metric("")
        self.stop()
        return self.exit_code

    def finish(self, timeout_s: float = 90) -> None:
        """Wait until the group is at the end of the site's topic, and end this worker well."""
        eventually(lambda: self._site.behind() == 0, timeout_s, self.said)
        assert self.terminate() == 0, self.said()


def started(parent: WorkerProcess) -> list[tuple[int, int]]:
    """Number and process id of each started worker, as the parent logs them."""
    return [(int(number), int(pid)) for number, pid in re.findall(r"worker (\d+) is process (\d+)", parent.said())]


def workers_of(parent: WorkerProcess) -> dict[int, int]:
    """The newest process id of each worker that this parent has started."""
    return dict(started(parent))


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    """Name, labels and value of one line of /metrics."""
    name, _, labels = line.rpartition(" ")[0].partition("{")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(line.rpartition(" ")[2])


@contextmanager
def worker(site: Site, replica: str, folder: Path, **settings: str) -> Iterator[WorkerProcess]:
    """A worker that is ready, and is gone after the block, whatever happens in it."""
    process = WorkerProcess(site, replica, folder, **settings)
    try:
        process.wait_ready()
        yield process
        process.metric("")
    finally:
        process.kill()


def enriched_by_a_worker(site: Site, folder: Path, images: Mapping[str, bytes], **settings: str) -> list[EnrichedImage]:
    for key, body in images.items():
        site.upload(key, body)
    site.send([(site.own(key), ()) for key in images])
    with worker(site, "w", folder, **settings) as process:
        process.finish()
    assert site.letters() == []
    return site.enriched_images()
