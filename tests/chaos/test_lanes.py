"""Live images beside a background that never ends: they hardly wait for it, and kills lose nothing of either.

LANES_MINUTES is the time beside the background, LANES_RECORDS its length; 10 and 100,000 are the numbers of
benchmarks/RESULTS.md.
"""

import json
import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.backends.kafka import KafkaEmitter, ensure_topics

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2400)]

MINUTES = float(os.environ.get("LANES_MINUTES", "1"))
RECORDS = int(os.environ.get("LANES_RECORDS", "20000"))
EVERY_S = 0.1
SHARES = (0.5, 0.99) if MINUTES >= 10 else (0.5, 0.95)
"""Quantiles to compare: of a minute's 540 images, the 99th is the sixth slowest: one pause of the host decides it."""
LIVE_IMAGES, IMAGES = 100, 1_000
BATCH_S = 0.05
"""For which a background batch may hold the device."""


class Live:
    """Sends a live event each tenth of a second, and notes for each when its outcome could be read."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stopped, self._ended = threading.Event(), threading.Event()
        self.sent: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        self.background = Counter[int]()
        """Background outcomes by the second in which they came."""
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._send)]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._ended.set()
            for thread in self._threads:
                thread.join(60)

    def stop_sending(self) -> None:
        self._stopped.set()

    def _send(self) -> None:
        due = time.monotonic()
        with KafkaEmitter(self._site.stack.kafka.servers) as emitter:
            while not self._stopped.is_set():
                number = len(self.sent)
                event = json.loads(self._site.own(f"{IMAGES + number % LIVE_IMAGES}.jpg")) | {"id": f"live-{number}"}
                self.sent[event["id"]] = time.monotonic()
                emitter.send(self._site.images, event["id"].encode(), json.dumps(event).encode(), ())
                emitter.flush()
                due += EVERY_S
                self._stopped.wait(max(0.0, due - time.monotonic()))

    def _read(self) -> None:
        reader = Consumer(
            {
                "bootstrap.servers": self._site.stack.kafka.servers,
                "group.id": f"{self._site.name}-timer",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            }
        )
        reader.subscribe([self._site.enriched])
        while not self._ended.is_set():
            for message in reader.consume(500, 0.01):
                now, event = time.monotonic(), json.loads(message.value() or b"{}").get("event", {})
                if event.get("topic") == self._site.images:
                    self.seen.setdefault(event["id"], now)
                elif event:
                    self.background[int(now)] += 1
        reader.close()

    def caught_up(self) -> bool:
        return bool(self.sent) and len(self.sent) - len(self.seen) <= 3

    def latencies(self, since: float, until: float, outages: list[tuple[float, float]]) -> list[float]:
        """Seconds from event to outcome of those sent in this time, outside of outages."""
        return sorted(
            self.seen[name] - at
            for name, at in list(self.sent.items())
            if since <= at < until and name in self.seen and not any(begin <= at < end for begin, end in outages)
        )


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def commit_s(process: WorkerProcess) -> float:
    """Mean seconds of a transaction."""
    name = "messaging_client_operation_duration_seconds"
    return process.metric(f"{name}_sum") / max(1.0, process.metric(f"{name}_count"))


def backlog(site: Site, topic: str) -> None:
    with KafkaEmitter(site.stack.kafka.servers) as emitter:
        for number in range(RECORDS):
            emitter.send(topic, f"old-{number}".encode(), site.own(f"{number % IMAGES}.jpg"), ())
        emitter.flush()


def assert_once_and_in_order(site: Site) -> None:
    """Of each input partition all outcomes up to some offset, each once; those of live records are all there."""
    offsets = defaultdict[tuple[str, int], list[int]](list)
    places = defaultdict[tuple[str, int, int], list[int]](list)
    for seen in site.read(site.enriched):
        event = json.loads(seen.value)["event"]
        offsets[event["topic"], event["partition"]].append(event["offset"])
        places[event["topic"], event["partition"], seen.partition].append(event["offset"])
    assert site.letters() == []
    for found in offsets.values():
        assert len(found) == len(set(found))
    assert all(found == sorted(found) for found in places.values())
    live = {
        (partition, offset) for (topic, partition), found in offsets.items() for offset in found if topic == site.images
    }
    assert live == {(partition, offset) for partition, offset, _ in site.inputs()}


@dataclass
class Findings:
    """Live latencies in seconds, ascending, and background outcomes a second."""

    alone: list[float]
    beside: list[float]
    commit_s: float
    outages: list[float]
    background: float
    at_once: float
    """In the second after the last live outcome."""
    later: float

    def quantiles(self, share: float) -> tuple[float, float]:
        return quantile(self.alone, share), quantile(self.beside, share)

    def told(self) -> str:
        compared = "".join(
            f"p{100 * share:.0f} {{:.3f}} and {{:.3f}} s, ".format(*self.quantiles(share)) for share in SHARES
        )
        return (
            f"live of {len(self.alone)} alone and {len(self.beside)} beside: {compared}a commit {self.commit_s:.3f} s; "
            f"background {self.background:.0f} a second beside live, {self.at_once:.0f} at once without, "
            f"then {self.later:.0f}; outages {self.outages}"
        )


def measured(site: Site, old: str, folder: Path) -> Findings:
    """One worker: live events alone, then beside the background with two kills, then none."""
    settings = {"TAGSTREAM_INPUT_TOPICS": f"{site.images},{old}:background", "TAGSTREAM_REDIS_URL": ""}
    live, outages = Live(site), list[tuple[float, float]]()
    with live.running(), ExitStack() as workers:
        process = workers.enter_context(worker(site, "w", folder, **settings))
        eventually(live.caught_up, 60, process.said)
        began = time.monotonic()
        time.sleep(30 + 6 * MINUTES)
        alone = live.latencies(began, time.monotonic() - 2, [])
        backlog(site, old)
        began = time.monotonic()
        time.sleep(20 * MINUTES)
        for _ in range(2):
            struck = time.monotonic()
            process.kill()
            process = workers.enter_context(worker(site, "w", folder, **settings))
            eventually(live.caught_up, 90, process.said)
            outages.append((struck - 1, time.monotonic() + 1))
            time.sleep(20 * MINUTES)
        ended = time.monotonic()
        beside, took_s = live.latencies(began, ended - 2, outages), commit_s(process)
        live.stop_sending()
        eventually(lambda: len(live.seen) == len(live.sent), 60, process.said)
        idle = int(time.monotonic())
        time.sleep(12)
        assert process.terminate() == 0, process.said()
    per_s = live.background
    meanwhile = sum(count for second, count in per_s.items() if second < ended) / (ended - began)
    later = sum(per_s[idle + second] for second in range(2, 10)) / 8
    gone = [end - begin for begin, end in outages]
    return Findings(alone, beside, took_s, gone, meanwhile, per_s[idle + 1], later)


def test_live_images_hardly_wait_for_a_background_that_never_ends(steady_site: Site, tmp_path: Path) -> None:
    """Guard: admission, budgets, batches and transactions by lane."""
    site, old = steady_site, f"{steady_site.images}.old"
    ensure_topics(site.stack.kafka.servers, {old: (4, {})})
    for number in range(IMAGES + LIVE_IMAGES):
        site.upload(f"{number}.jpg", photo(number))
    found = measured(site, old, tmp_path)
    _log.info("%s", found.told())
    assert found.background > 0, found.told()
    for share in SHARES:
        alone, beside = found.quantiles(share)
        most = 1.2 * alone + BATCH_S + found.commit_s
        assert beside <= most, found.told()
    assert found.at_once >= 0.5 * found.later > 0, found.told()
    assert_once_and_in_order(site)
    audited = site.audit(TAGSTREAM_INPUT_TOPICS=f"{site.images},{old}:background")
    assert audited.proved, audited.as_json()
