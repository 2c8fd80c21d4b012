"""One worker that many faults share, because a start takes longer than most faults."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.dead_letter import DeadLetter
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from tests.chaos.account import Account
from tests.fixtures import Stack
from tests.support.broker import lag
from tests.support.lying_store import LyingStore
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.worker_process import Coordinates, Site, WorkerProcess, worker
from workers.backends.kafka import KafkaEmitter
from workers.errors import TagstreamError
from workers.types import Headers

Given = tuple[bytes | None, Headers]


def in_flight(process: WorkerProcess) -> float:
    return process.metric("tagstream_images_in_flight")


def held(process: WorkerProcess) -> float:
    return process.metric("tagstream_ledger_records")


def is_committed(site: Site) -> bool:
    """Whether the group has committed up to the end of its input; False too while the broker is away."""
    try:
        return all(behind == 0 for behind in lag(site.stack.kafka.servers, site.name, [site.images]).values())
    except TagstreamError:
        return False


@dataclass
class Results:
    images: list[EnrichedImage] = field(default_factory=list)
    retractions: list[Retraction] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    @property
    def coordinates(self) -> list[Coordinates]:
        outputs: list[EnrichedImage | Retraction | Skip] = [*self.images, *self.retractions, *self.skips]
        found = [(output.event.partition, output.event.offset, output.event.index) for output in outputs]
        return found + [(x.partition, x.offset, failure.index) for x in self.letters for failure in x.failures]

    @property
    def reasons(self) -> list[str]:
        return sorted(failure.reason for dead_letter in self.letters for failure in dead_letter.failures)

    @property
    def keys(self) -> list[str]:
        return sorted(image.source.key for image in self.images)


@dataclass
class SharedWorker:
    """A site, its worker, and the proxies between the worker and the store and cache."""

    site: Site
    worker: WorkerProcess
    store: LyingStore
    cache: FaultProxy

    @classmethod
    @contextmanager
    def started(cls, stack: Stack, folder: Path, **settings: str) -> Iterator[SharedWorker]:
        """Start a worker, with these settings on top of those for most faults."""
        site = Site(stack, f"shared-{uuid.uuid4().hex[:8]}")
        s3_port = int(stack.s3.endpoint_url.rpartition(":")[2])
        with (
            LyingStore(lambda: s3_port) as store,
            FaultProxy(lambda: stack.valkey.ports[0]) as cache,
            worker(
                site,
                "shared",
                folder,
                **{
                    "TAGSTREAM_S3_ENDPOINT": store.url,
                    "TAGSTREAM_REDIS_URL": f"redis://127.0.0.1:{cache.port}/0",
                    "retry_s": "1",
                    "unreadable_s": "4",
                    "TAGSTREAM_GET_TIMEOUT_S": "20",
                    "TAGSTREAM_MAX_OBJECT_BYTES": "2MiB",
                    "TAGSTREAM_MAX_PIXELS": "1000000",
                    "TAGSTREAM_BUCKETS": site.name,
                    **settings,
                },
            ) as process,
        ):
            yield cls(site, process, store, cache)

    def send(self, values: Sequence[Given], partition_key: bytes | None = None) -> list[Coordinates]:
        """Send records; answers where they landed, index 0. With a key all go to its one partition."""
        before = set(self.site.inputs())
        with KafkaEmitter(self.site.stack.kafka.servers) as emitter:
            for number, (value, headers) in enumerate(values):
                emitter.send(self.site.images, partition_key or f"key-{number}".encode(), value, headers)
            emitter.flush()
        landed = sorted(set(self.site.inputs()) - before)
        assert len(landed) == len(values), "an independent reader must see what was sent"
        return landed

    def committed(self, timeout_s: float = 60.0) -> None:
        eventually(lambda: is_committed(self.site), timeout_s, self.worker.said)

    def results(self, records: Sequence[Coordinates]) -> Results:
        wanted = {(partition, offset) for partition, offset, _ in records}
        found = Results()
        for output in self.site.outputs():
            if (output.event.partition, output.event.offset) in wanted:
                match output:
                    case EnrichedImage():
                        found.images.append(output)
                    case Retraction():
                        found.retractions.append(output)
                    case Skip():
                        found.skips.append(output)
        found.letters = [
            dead_letter for dead_letter in self.site.letters() if (dead_letter.partition, dead_letter.offset) in wanted
        ]
        return found

    def settle(
        self, account: Account, records: Sequence[Coordinates], letters: int = 0, expected: Sequence[Coordinates] = ()
    ) -> Results:
        """Wait until all is committed, check the invariant for these and earlier records, and return the outcomes."""
        self.committed()
        found = self.results(records)
        account.settle(expected or records, found.coordinates, len(found.letters), letters)
        self.site.assert_in_order()
        assert self.worker.running, self.worker.said()
        self.worker.metric("tagstream_budget_peak_bytes")
        self.site.assert_within_budgets()
        return found
