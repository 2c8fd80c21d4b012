"""Each alert fires for its fault on a real worker, and is over when the fault is."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tagstream_testing.local.scratch import Scratch
from tests.chaos.shared_worker import SharedWorker, held
from tests.chaos.unruly import Unruly, image_of
from tests.dashboards.watching import (
    FIRES_WITHIN_S,
    RULES,
    assert_fires,
    assert_over,
    firing,
    made_to_fire,
    place,
    send,
    traffic,
)
from tests.fixtures import Stack, up_or_skip
from tests.support.lying_store import LyingStore, drips, says, waits
from tests.support.prometheus import Prometheus, shortened
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker, workers_of
from workers.backends.kafka import KafkaEmitter, ensure_topics

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(900)]

BY = 30


@pytest.fixture(scope="module")
def watched(scratch: Scratch) -> Iterator[Prometheus]:
    rules = shortened(RULES, BY, scratch.path / "shortened.yaml")
    yield from up_or_skip(Prometheus(scratch.path / "watching", rules, every_s=2))


@pytest.fixture(scope="module")
def shared(stack: Stack, scratch: Scratch, watched: Prometheus) -> Iterator[SharedWorker]:
    """A worker that is watched as `job="shared"`, and tests itself never."""
    folder = scratch.path / "alerts"
    folder.mkdir()
    with SharedWorker.started(stack, folder, self_test_s="80000") as shared:
        watched.scrape(shared=[place(shared.worker)])
        yield shared


def test_every_alert_is_made_to_fire() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert made_to_fire(Path(__file__).parent) == alerts


def test_a_worker_at_work_raises_no_alert(shared: SharedWorker, watched: Prometheus) -> None:
    with traffic(shared.site, range(1_000)):
        eventually(lambda: watched.now("sum(rate(tagstream_outcomes_total[5s])) > 0"), 60)
    assert firing(watched) - {"TagstreamSelfTestOld"} == set()


def test_a_device_that_is_never_tested(shared: SharedWorker, watched: Prometheus) -> None:
    assert_fires(watched, "TagstreamSelfTestOld")


def test_invalid_images(shared: SharedWorker, watched: Prometheus) -> None:
    keys = [f"none-{number}.jpg" for number in range(20)]
    for key in keys:
        shared.site.upload(key, b"no image at all")
    shared.site.send([(shared.site.own(key), ()) for key in keys])
    assert_fires(watched, "TagstreamDeadLetters")
    with traffic(shared.site, range(1_000, 3_000)):
        assert_over(watched, "TagstreamDeadLetters")


def test_a_cache_that_refuses(shared: SharedWorker, watched: Prometheus) -> None:
    shared.cache.refuse()
    shared.cache.cut()
    with traffic(shared.site, range(3_000, 5_000)):
        assert_fires(watched, "TagstreamCacheUnreachable")
        shared.cache.heal()
        assert_over(watched, "TagstreamCacheUnreachable")


def test_decoders_that_are_killed_again_and_again(shared: SharedWorker, watched: Prometheus) -> None:
    with traffic(shared.site, range(5_000, 7_000)):
        until = time.monotonic() + FIRES_WITHIN_S
        while "TagstreamDecodersDie" not in firing(watched):
            assert time.monotonic() < until, watched.states()
            for decoder in shared.worker.decoders():
                os.kill(decoder, signal.SIGKILL)
            time.sleep(0.2)
        assert_fires(watched, "TagstreamDecodersDie")
        assert_over(watched, "TagstreamDecodersDie")
    shared.committed(120)


def test_a_store_that_fails_all(shared: SharedWorker, watched: Prometheus) -> None:
    """Only records that a worker has read can be late, so the store fails once all are read, and they outnumber those
    of the tests before. A histogram exists from its first record on, and increases from its second on."""
    with traffic(shared.site, range(6_000, 7_000)):
        eventually(lambda: watched.now("messaging_process_duration_seconds_count > 0"), 60, shared.worker.said)
    shared.committed()
    taken = threading.Event()
    shared.store.lies["*"] = waits(taken, says(503))
    send(shared.site, range(7_000, 7_200))
    eventually(lambda: held(shared.worker) == 200, 60, shared.worker.said)
    taken.set()
    assert_fires(
        watched,
        "TagstreamStoreUnreachable",
        "TagstreamNoOutcomes",
        "TagstreamPartitionStandsStill",
        "TagstreamFarBehind",
    )
    eventually(lambda: watched.now("max(tagstream_lag_seconds) > 31"), FIRES_WITHIN_S)
    del shared.store.lies["*"]
    assert_fires(watched, "TagstreamImagesLate")
    with traffic(shared.site, range(8_000, 9_000)):
        assert_over(
            watched,
            "TagstreamStoreUnreachable",
            "TagstreamNoOutcomes",
            "TagstreamPartitionStandsStill",
            "TagstreamFarBehind",
        )


def test_a_background_partition_without_a_turn(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    site, old = Site(stack, "alerts-background"), "alerts-background.old"
    ensure_topics(stack.kafka.servers, {old: (1, {})})
    site.upload("old.jpg", photo(1))
    with KafkaEmitter(stack.kafka.servers) as emitter:
        emitter.send(old, b"old.jpg", site.own("old.jpg"))
        emitter.flush()
    with LyingStore(lambda: int(stack.s3.endpoint_url.rpartition(":")[2])) as store:
        store.lies["*"] = says(503)
        settings = {"TAGSTREAM_S3_ENDPOINT": store.url, "TAGSTREAM_INPUT_TOPICS": f"{site.images},{old}:background"}
        with worker(site, "background", scratch.path, **settings) as process:
            watched.scrape(background=[place(process)])
            assert_fires(watched, "TagstreamBackgroundStandsStill")
            assert watched.now('ALERTS{job="background",alertname=~"TagstreamNoOutcomes|TagstreamFarBehind"}') == []
            del store.lies["*"]
            assert_over(watched, "TagstreamBackgroundStandsStill")


def test_a_device_that_errs_once_and_has_little_memory(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    """One batch gets wrong answers; then any of more than one image runs out of memory."""
    site, unruly = Site(stack, "alerts-device"), Unruly(scratch.path / "alerts-device")
    settings = unruly.settings() | {"self_test_s": "2"}
    with worker(site, "device", scratch.path, **settings) as process:
        watched.scrape(device=[place(process)])
        eventually(lambda: watched.now('tagstream_self_tests_total{result="right"} > 0'), 60)
        bodies = {f"{number}.png": image_of((255, 0, 0), number) for number in range(32)}
        for key, body in bodies.items():
            site.upload(key, body)
        unruly.order(lies_once=True)
        assert_fires(watched, "TagstreamSelfTestWrong")
        unruly.order(memory=1)
        site.send([(site.own(key), ()) for key in bodies])
        assert_fires(watched, "TagstreamBatchShrunk")


def test_workers_that_wait_for_kafka_and_ones_that_are_gone(
    stack: Stack, scratch: Scratch, watched: Prometheus, shared: SharedWorker
) -> None:
    watched.scrape(shared=[place(shared.worker)])
    eventually(lambda: watched.now("tagstream_ready == 1"), 30)
    shared.worker.stop()
    assert_fires(watched, "TagstreamWorkersGone", job="shared")  # those of other tests' jobs are gone too
    kafka = stack.kafka
    kafka.freeze()
    try:
        shared.worker.launch()
        assert_fires(watched, "TagstreamNoWorkerReady")
    finally:
        kafka.thaw()
    shared.worker.wait_ready()
    assert_over(watched, "TagstreamWorkersGone", "TagstreamNoWorkerReady", job="shared")


def test_a_worker_that_starts_again_and_again(shared: SharedWorker, watched: Prometheus) -> None:
    def starts() -> set[str]:
        """The start time of the last scraped process; nothing while no process answers."""
        return {series["value"][1] for series in watched.now('process_start_time_seconds{job="shared"}')}

    watched.scrape(shared=[place(shared.worker)])
    eventually(starts, 120, shared.worker.said)
    until = time.monotonic() + FIRES_WITHIN_S
    while "TagstreamWorkerRestarts" not in firing(watched):
        assert time.monotonic() < until, watched.states()
        before = starts()
        shared.worker.kill()
        shared.worker.launch()
        eventually(lambda before=before: starts() - before, 120, shared.worker.said)  # type: ignore[misc]
    assert_fires(watched, "TagstreamWorkerRestarts")
    shared.worker.wait_ready()


def test_one_of_two_processes_that_hangs(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    folder = scratch.path / "alerts-several"
    folder.mkdir()
    settings = {"TAGSTREAM_WORKERS": "2", "TAGSTREAM_LOG_FORMAT": "text"}
    with worker(Site(stack, "alerts-several"), "several", folder, **settings) as parent:
        watched.scrape(several=[place(parent)])
        eventually(lambda: watched.now("sum(tagstream_worker_answers) == 2"), 60, parent.said)
        hanging = workers_of(parent)[1]
        os.kill(hanging, signal.SIGSTOP)
        try:
            assert_fires(watched, "TagstreamWorkerAbsent")
        finally:
            os.kill(hanging, signal.SIGCONT)
        assert_over(watched, "TagstreamWorkerAbsent")


def test_a_store_that_gives_a_byte_a_second(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    """Fetched bytes fill its memory, and the device is idle."""
    folder = scratch.path / "alerts-slow"
    folder.mkdir()
    settings = {"encoded_bytes": "2MiB", "TAGSTREAM_GET_TIMEOUT_S": "400"}
    with SharedWorker.started(stack, folder, **settings) as slow:
        watched.scrape(slow=[place(slow.worker)])
        slow.site.upload("large.jpg", bytes(2_000_000))
        slow.store.lies["large.jpg"] = drips(lambda: True)
        slow.site.send([(slow.site.own("large.jpg"), ())])
        assert_fires(watched, "TagstreamMemoryBudgetFull")
