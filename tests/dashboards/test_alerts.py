"""Each alert fires for its fault on a real worker, and is over when the fault is.

The rules are the project's own, with every window and `for` divided by 30: an alert for half an hour needs a minute.

Not made to fire here, because their faults take too long or can't be made from outside: TagstreamPartitionNotOpened (a
dead worker's transaction that the broker does not end), TagstreamBrokerUnreachable and TagstreamTransactionsFail (they
count calls in minutes), TagstreamMemoryBudgetFull and TagstreamWorkerRestarts, and those of drift, which compare with a
week before. `make rules` tries the rules of all of them on numbers.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chaos.shared_worker import SharedWorker
from tests.chaos.unruly import Unruly, image_of
from tests.conftest import Stack, up_or_skip
from tests.support.lying_store import says
from tests.support.processes import children
from tests.support.prometheus import Prometheus
from tests.support.shortened_rules import shortened
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.local.scratch import Scratch

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(900)]

RULES = Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "rules" / "tagstream.yaml"
BY = 30
FIRES_WITHIN_S = 300
TRIED = {
    "TagstreamCacheUnreachable",
    "TagstreamDeadLetters",
    "TagstreamDecodersDie",
    "TagstreamSelfTestOld",
    "TagstreamStoreUnreachable",
    "TagstreamNoOutcomes",
    "TagstreamPartitionStandsStill",
    "TagstreamFarBehind",
    "TagstreamImagesLate",
    "TagstreamWorkersGone",
    "TagstreamNoWorkerReady",
    "TagstreamSelfTestWrong",
    "TagstreamBatchShrunk",
}
NOT_TRIED = {
    "TagstreamPartitionNotOpened",
    "TagstreamBrokerUnreachable",
    "TagstreamTransactionsFail",
    "TagstreamMemoryBudgetFull",
    "TagstreamWorkerRestarts",
    "TagstreamTagsDrifted",
    "TagstreamUntaggedImages",
    "TagstreamScoresDrifted",
    "TagstreamCaptionsDrifted",
}


@pytest.fixture(scope="module")
def watched(scratch: Scratch) -> Iterator[Prometheus]:
    """A Prometheus with the shortened rules."""
    rules = shortened(RULES, BY, scratch.path / "shortened.yaml")
    yield from up_or_skip(Prometheus(scratch.path / "watching", rules, every_s=2))


@pytest.fixture(scope="module")
def shared(stack: Stack, scratch: Scratch, watched: Prometheus) -> Iterator[SharedWorker]:
    """A worker that is watched as `job="shared"`, and tests itself never."""
    folder = scratch.path / "alerts"
    folder.mkdir()
    with SharedWorker.started(stack, folder, TAGSTREAM_SELF_TEST_S="80000") as shared:
        watched.scrape(shared=[place(shared.worker)])
        yield shared


def test_every_alert_is_tried_or_named_as_not_tried() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert alerts == TRIED | NOT_TRIED


def test_a_worker_at_work_raises_no_alert(shared: SharedWorker, watched: Prometheus) -> None:
    with traffic(shared.site, range(1_000)):
        eventually(lambda: watched.now("sum(rate(tagstream_outcomes_total[5s])) > 0"), 60)
    assert firing(watched) - {"TagstreamSelfTestOld"} == set()


def test_a_device_that_is_never_tested(shared: SharedWorker, watched: Prometheus) -> None:
    fires(watched, "TagstreamSelfTestOld")


def test_images_that_are_none(shared: SharedWorker, watched: Prometheus) -> None:
    keys = [f"none-{number}.jpg" for number in range(20)]
    for key in keys:
        shared.site.upload(key, b"no image at all")
    shared.site.send([(shared.site.own(key), ()) for key in keys])
    fires(watched, "TagstreamDeadLetters")
    with traffic(shared.site, range(1_000, 3_000)):
        is_over(watched, "TagstreamDeadLetters")


def test_a_cache_that_refuses(shared: SharedWorker, watched: Prometheus) -> None:
    shared.cache.refuse()
    shared.cache.cut()
    with traffic(shared.site, range(3_000, 5_000)):
        fires(watched, "TagstreamCacheUnreachable")
        shared.cache.heal()
        is_over(watched, "TagstreamCacheUnreachable")


def test_decoders_that_are_killed_again_and_again(shared: SharedWorker, watched: Prometheus) -> None:
    with traffic(shared.site, range(5_000, 7_000)):
        until = time.monotonic() + FIRES_WITHIN_S
        while "TagstreamDecodersDie" not in firing(watched):
            assert time.monotonic() < until, watched.states()
            for decoder in decoders(shared.worker):
                os.kill(decoder, signal.SIGKILL)
            time.sleep(0.2)
        is_over(watched, "TagstreamDecodersDie")
    shared.committed(120)


def test_a_store_that_fails_all(shared: SharedWorker, watched: Prometheus) -> None:
    shared.store.lies["*"] = says(503)
    with traffic(shared.site, range(7_000, 7_040)):
        fires(
            watched,
            "TagstreamStoreUnreachable",
            "TagstreamNoOutcomes",
            "TagstreamPartitionStandsStill",
            "TagstreamFarBehind",
        )
    del shared.store.lies["*"]
    fires(watched, "TagstreamImagesLate")
    with traffic(shared.site, range(8_000, 9_000)):
        is_over(
            watched,
            "TagstreamStoreUnreachable",
            "TagstreamNoOutcomes",
            "TagstreamPartitionStandsStill",
            "TagstreamFarBehind",
        )


def test_a_device_that_errs_once_and_has_little_memory(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    """One batch gets wrong answers; then any of more than one image runs out of memory."""
    site, unruly = Site(stack, "alerts-device"), Unruly(scratch.path / "alerts-device")
    settings = unruly.settings() | {"TAGSTREAM_SELF_TEST_S": "2"}
    with worker(site, "device", scratch.path, **settings) as process:
        watched.scrape(device=[place(process)])
        eventually(lambda: watched.now('tagstream_self_tests_total{result="right"} > 0'), 60)
        bodies = {f"{number}.png": image_of((255, 0, 0), number) for number in range(32)}
        for key, body in bodies.items():
            site.upload(key, body)
        unruly.order(lies_once=True)
        fires(watched, "TagstreamSelfTestWrong")
        unruly.order(memory=1)
        site.send([(site.own(key), ()) for key in bodies])
        fires(watched, "TagstreamBatchShrunk")


def test_workers_that_wait_for_kafka_and_ones_that_are_gone(
    stack: Stack, scratch: Scratch, watched: Prometheus, shared: SharedWorker
) -> None:
    watched.scrape(shared=[place(shared.worker)])
    eventually(lambda: watched.now("tagstream_ready == 1"), 30)
    shared.worker.stop()
    fires(watched, "TagstreamWorkersGone")
    kafka = stack.kafka
    kafka.freeze()
    try:
        shared.worker.launch()
        fires(watched, "TagstreamNoWorkerReady")
    finally:
        kafka.thaw()
    shared.worker.wait_ready()
    is_over(watched, "TagstreamWorkersGone", "TagstreamNoWorkerReady")


def place(process: WorkerProcess) -> str:
    """Where Prometheus finds it."""
    return urlsplit(process.url).netloc


def decoders(process: WorkerProcess) -> Sequence[int]:
    assert process.pid is not None
    return [child for fork_server in children(process.pid) for child in children(fork_server)]


def firing(prometheus: Prometheus) -> set[str]:
    return {name for name, state in prometheus.states().items() if state == "firing"}


def fires(prometheus: Prometheus, *alerts: str) -> None:
    """Wait until each has fired once."""
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(firing(prometheus))
        return seen >= set(alerts)

    eventually(all_seen, FIRES_WITHIN_S, lambda: f"{prometheus.states()}, and so far {seen}")


def is_over(prometheus: Prometheus, *alerts: str) -> None:
    """Wait until none of them fires any more."""
    eventually(lambda: not firing(prometheus) & set(alerts), FIRES_WITHIN_S, lambda: f"{prometheus.states()}")


@contextmanager
def traffic(site: Site, numbers: range) -> Iterator[None]:
    """While the body runs, a new image every third of a second, as long as there are numbers."""
    ended = threading.Event()

    def send() -> None:
        for number in numbers:
            site.upload(f"{number}.jpg", photo(number))
            site.send([(site.own(f"{number}.jpg"), ())])
            if ended.wait(0.3):
                return

    thread = threading.Thread(target=send, name="traffic")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
