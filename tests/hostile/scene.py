"""One worker among liars, and an attack on it: hostile records in some partitions, good ones around them.

An attack must not change this: every record has its outcome, each index once; good records of other partitions are
answered within 30 s and of the same one within 60 s; memory stays within a worker's limit; no secret leaves.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fixtures import Stack
from tests.hostile.redis_liar import LIES, LyingRedis
from tests.hostile.witness import Answer, Place, Witness
from tests.support.lying_store import LyingStore
from tests.support.processes import Watched
from tests.support.raw_kafka import batch, produce, record
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.assembly.decoders import decoders
from workers.assembly.needs import worst_bytes
from workers.environment import read

HOSTILE, OTHERS = 0, (1, 2, 3)
"""Partitions."""
OTHERS_WITHIN_S = 30.0
SAME_WITHIN_S = 60.0
_BUSY_S = 0.5
WEIGHTS_BYTES = 20 << 20
"""Of the compact model, about."""
REDIS_PASSWORD = "MARKED-redis-password"
SIGNATURE = "MARKED-SECRET"
"""The query strings of signed URLs in messages."""


@dataclass(frozen=True)
class Batch:
    """Hostile bytes for a partition, and how many records a broker sees in them."""

    kind: str
    data: bytes
    records: int = 1
    partition: int = HOSTILE


@dataclass
class Verdict:
    name: str
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    goods: int = 0
    others_s: float = 0.0
    same_s: float = 0.0
    peak_bytes: int = 0

    def row(self) -> str:
        tried = ", ".join(f"{kind} × {count}" if count > 1 else kind for kind, count in sorted(self.kinds.items()))
        came = ", ".join(f"{count} {kind}" for kind, count in self.outcomes.most_common())
        return (
            f"| {self.name} | {sum(self.kinds.values())} | {self.others_s:.1f} s | {self.same_s:.1f} s | "
            f"{self.peak_bytes >> 20} MiB | {came}; {self.refused} refused by the broker | {tried} |\n"
        )


def may_hold(process: WorkerProcess) -> int:
    """Bytes of memory that a worker of its settings may hold at worst."""
    settings = read(process.environment())
    return worst_bytes(settings, decoders(settings), WEIGHTS_BYTES)


HEAD = (
    "| attack | inputs | others within | same partition within | peak memory | what came of them | inputs by kind |\n"
    "|---|---|---|---|---|---|---|\n"
)


def _slowness() -> float:
    """The seconds in which this process gets one second of the processor, at least 1."""
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < _BUSY_S:
        pass
    return max(1.0, (time.monotonic() - began) / _BUSY_S)


class Scene:
    """A worker with its liars. `attack` may be called again and again.

    `bucket_of` names the bucket of a partition's good records where it is not the site's. `may_hold`: bytes of memory,
    as docs/guide/deploying.md adds them up.
    """

    def __init__(self, site: Site, process: WorkerProcess, store: LyingStore, redis: LyingRedis, seen: Witness) -> None:
        self.site = site
        self.worker = process
        self.store = store
        self.redis = redis
        self.witness = seen
        self.verdicts: list[Verdict] = []
        self.bucket_of: dict[int, str] = {}
        self.may_hold = may_hold(process)
        self._numbers = iter(range(1_000_000))
        self._shown: dict[int, tuple[int, str]] = {}
        self._goods: dict[Place, float] = {}
        self._hostile: set[Place] = set()

    @classmethod
    @contextmanager
    def started(
        cls, stack: Stack, folder: Path, partitions: int = 4, /, *, also: str = "", **settings: str
    ) -> Iterator[Scene]:
        """A scene while the block lasts; `also` is another bucket that events may name."""
        site = Site(stack, f"hostile-{uuid.uuid4().hex[:8]}", partitions)
        s3_port = int(stack.s3.endpoint_url.rpartition(":")[2])
        secrets = (stack.s3.secret_key.encode(), REDIS_PASSWORD.encode(), SIGNATURE.encode())
        with LyingStore(lambda: s3_port) as store, LyingRedis(LIES) as redis, Witness(site, secrets) as witness:
            own = {
                "TAGSTREAM_S3_ENDPOINT": store.url,
                "TAGSTREAM_REDIS_URL": f"redis://me:{REDIS_PASSWORD}@127.0.0.1:{redis.port}/0",
                "retry_s": "1",
                "unreadable_s": "10",
                "TAGSTREAM_GET_TIMEOUT_S": "5",
                "TAGSTREAM_MAX_OBJECT_BYTES": "2MiB",
                "TAGSTREAM_LOG_LEVEL": "info",
                "TAGSTREAM_BUCKETS": f"{site.name},{also}".rstrip(","),
            }
            with worker(site, "w", folder, **{**own, **settings}) as process:
                yield cls(site, process, store, redis, witness)

    def attack(
        self,
        name: str,
        batches: Sequence[Batch],
        during_s: float = 0.0,
        same_within_s: float = SAME_WITHIN_S,
        *,
        others: Sequence[int] = OTHERS,
        others_within_s: float = OTHERS_WITHIN_S,
        others_first: bool = True,
        every_s: float = 1.0,
    ) -> Verdict:
        """Send these between good records, and see to it that all is answered as promised.

        Args:
            during_s: how long good records are sent at least.
            same_within_s: what good records of the hostile partitions may take. This and `others_within_s` are for a
                quiet machine, and grow with how slow this one is: a slow machine is no finding.
            others: the partitions that get a good record `every_s`.
            others_within_s: what those may take.
            others_first: whether a good record comes before the hostile ones.
        """
        verdict = Verdict(name)
        slow = _slowness()
        same_within_s, others_within_s = same_within_s * slow, others_within_s * slow
        began = time.monotonic()
        goods, hostile = set(self._goods), set(self._hostile)
        attacked = {each.partition for each in batches} or {HOSTILE}
        assert self.worker.pid is not None
        with Watched(self.worker.pid) as memory:
            for partition in attacked if others_first else ():
                self._good(partition)
            for each in batches:
                self._send_hostile(each, verdict)
            for partition in attacked:
                self._good(partition)
            due = time.monotonic()
            while self._open() or time.monotonic() < began + during_s:
                assert self.worker.running, self.worker.said()[-4000:]
                if time.monotonic() > began + same_within_s + during_s:
                    break
                for partition in others:
                    self._good(partition)
                due += every_s
                time.sleep(max(0.0, due - time.monotonic()))
        verdict.peak_bytes = memory.peak
        self._judge(verdict, self._goods.keys() - goods, self._hostile - hostile, attacked)
        self._check(verdict, others_within_s, same_within_s)
        self.verdicts.append(verdict)
        return verdict

    def _good(self, partition: int) -> None:
        bucket = self.bucket_of.get(partition, self.site.name)
        second, key = self._shown.get(partition, (0, ""))
        if second != int(time.monotonic()):
            number = next(self._numbers)
            key = f"good-{number}.jpg"
            self._shown[partition] = int(time.monotonic()), key
            self.site.store.put(bucket, key, photo(number, 48))
        value = self.site.own(key, bucket=bucket, sequencer="0A", etag=None)
        error, offset = produce(self.site.stack.kafka.servers, self.site.images, partition, batch([record(value)]))
        assert error == 0
        self._goods[partition, offset] = time.monotonic()

    def send(self, each: Batch) -> Place:
        error, offset = produce(self.site.stack.kafka.servers, self.site.images, each.partition, each.data)
        assert error == 0
        return each.partition, offset

    def _send_hostile(self, each: Batch, verdict: Verdict) -> None:
        error, offset = produce(self.site.stack.kafka.servers, self.site.images, each.partition, each.data)
        verdict.kinds[each.kind] += 1
        if error:
            verdict.refused += 1
        else:
            self._hostile |= {(each.partition, offset + number) for number in range(each.records)}

    def _open(self) -> set[Place]:
        return self.witness.unanswered(self._hostile | self._goods.keys())

    def _judge(self, verdict: Verdict, goods: set[Place], hostile: set[Place], attacked: set[int]) -> None:
        verdict.goods = len(goods)
        for place in sorted(goods):
            answer = self._answer(place)
            took_s = answer.at - self._goods[place]
            assert answer.kinds == ["enriched"], f"the good record {place} became {answer.kinds}"
            if place[0] in attacked:
                verdict.same_s = max(verdict.same_s, took_s)
            else:
                verdict.others_s = max(verdict.others_s, took_s)
        for place in hostile:
            answer = self._answer(place)
            assert set(answer.indexes) == set(range(len(answer.indexes))), f"{place}: {answer.indexes}"
            assert set(answer.indexes.values()) <= {1, 2}, f"{place} was answered twice: {answer.indexes}"
            verdict.outcomes.update(answer.kinds)

    def _check(self, verdict: Verdict, others_within_s: float, same_within_s: float) -> None:
        said = self.worker.said()
        assert verdict.others_s <= others_within_s, f"{verdict.others_s:.1f} s for a good record of another partition"
        assert verdict.same_s <= same_within_s, f"{verdict.same_s:.1f} s for a good record of the same partition"
        assert verdict.peak_bytes < self.may_hold, f"{verdict.peak_bytes >> 20} MiB"
        assert self.worker.peak_memory() < self.may_hold
        assert not self.witness.leaks, f"a secret left: {self.witness.leaks}"
        assert not self.witness.errors, self.witness.errors
        for secret in (self.site.stack.s3.secret_key, REDIS_PASSWORD, SIGNATURE):
            assert secret not in said, "a secret in the log"
            assert secret not in self.worker.get("/metrics")[1]
        assert self.worker.get("/livez")[0] == 200
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:4000]

    def _answer(self, place: Place) -> Answer:
        answer = self.witness.answer(place)
        assert answer is not None, f"no outcome of {place}\n{self.worker.said()[-4000:]}"
        return answer
