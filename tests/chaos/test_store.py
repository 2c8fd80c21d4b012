"""The object store fails, lies, is slow or away: only the failing image pays, and all others continue at once."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.scenes import behind_proxy, load, publishes
from tests.chaos.shared_worker import Given, SharedWorker, held, in_flight
from tests.support.broker import BrokerBehindProxy, catch_open_transaction
from tests.support.lying_store import Lie, drips, is_empty, pours, refuses_us, resets, says
from tests.support.proxy import wait_for
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.timeout(240)

_seeds = iter(range(1_000, 2_000))


@pytest.fixture(autouse=True)
def _truth_again(shared: SharedWorker) -> Iterator[None]:
    yield
    shared.store.lies.clear()


def fresh(shared: SharedWorker, *keys: str) -> list[Given]:
    for key in keys:
        shared.site.upload(key, photo(next(_seeds)))
    return [(shared.site.own(key), ()) for key in keys]


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("lie", "reason", "times"),
    [
        pytest.param(is_empty, "empty-object", 1, id="empty"),
        pytest.param(pours(3 << 20), "object-too-large", 1, id="larger than announced"),
        pytest.param(says(403), "forbidden", 1, id="403"),
        pytest.param(says(500), "unreadable", 2, id="always 500"),
        pytest.param(resets(1_000), "unreadable", 2, id="always reset halfway"),
    ],
)
def test_one_object_with_a_get_that_is(
    shared: SharedWorker, account: Account, lie: Lie, reason: str, times: int
) -> None:
    """Guards: the limits on a body, and the verdict on an object that alone fails or is refused."""
    failing = f"{reason}-{times}-{next(_seeds)}.jpg"
    shared.store.lies[failing] = lie
    records = shared.send(fresh(shared, "before.jpg"))
    shared.committed()
    records += shared.send(fresh(shared, failing))
    wait_for(lambda: shared.store.told[failing], times)
    account.landed()
    beside: list[tuple[int, int, int]] = []

    def others_flow() -> None:
        # `unreadable` is only said of an object while others of its bucket read.
        beside.extend(shared.send(fresh(shared, f"beside-{next(_seeds)}.jpg"), b"elsewhere"))

    with meanwhile(others_flow, 1.0):
        eventually(lambda: bool(shared.results(records).letters), 40, shared.worker.said)
    account.over()
    found = shared.settle(account, records + beside, letters=1)
    account.recovered()
    assert found.reasons == [reason]


@pytest.mark.parametrize(
    ("lie", "times"),
    [
        pytest.param(resets(2), 3, id="reset halfway twice"),
        pytest.param(says(500), 2, id="500 for a while", marks=pytest.mark.chaos),
        pytest.param(says(503), 2, id="503 for a while", marks=pytest.mark.chaos),
    ],
)
def test_a_get_that_fails_by(shared: SharedWorker, account: Account, lie: Lie, times: int) -> None:
    """Guard: passing failures are retried with a growing wait; without it a healthy image is dead-lettered."""
    key = f"passing-{next(_seeds)}.jpg"
    shared.store.lies[key] = lie
    records = shared.send(fresh(shared, key))
    wait_for(lambda: shared.store.told[key], times)
    account.landed()
    account.over()
    shared.store.lies.clear()
    found = shared.settle(account, records)
    account.recovered()
    assert found.keys == [key]


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("lie", "images", "times"),
    [(says(403), 4, 6), (refuses_us("ExpiredToken"), 1, 4)],
    ids=["every object", "us, at a single image"],
)
def test_the_store_refuses_for_a_while(
    shared: SharedWorker, account: Account, lie: Lie, images: int, times: int
) -> None:
    """Guard: a refusal is no fault of its object unless another one was given after it, and one of us blames none.
    Else rights that are taken away would empty the topic into the dead-letter topic."""
    records = shared.send(fresh(shared, "before.jpg"))
    shared.committed()
    shared.store.lies["*"] = lie
    keys = [f"refused-{number}-{next(_seeds)}.jpg" for number in range(images)]
    records += shared.send(fresh(shared, *keys))
    wait_for(lambda: sum(shared.store.told[key] for key in keys), times)
    account.landed()
    assert len(shared.results(records).coordinates) == 1
    shared.store.lies.clear()
    account.over()
    assert shared.settle(account, records).keys == sorted(["before.jpg", *keys])
    account.recovered()


def test_one_byte_a_second_at_the_head_of_a_partition_while_the_others_flow(
    shared: SharedWorker, account: Account
) -> None:
    """Guard: fetches run side by side; with one thread all would wait."""
    slow = threading.Event()
    slow.set()
    shared.store.lies["drip.jpg"] = drips(slow.is_set)
    head = shared.send(fresh(shared, "drip.jpg"), b"slow")
    wait_for(lambda: shared.store.told["drip.jpg"], 1)
    account.landed()
    others = [r for r in shared.send(fresh(shared, *[f"flow-{n}.jpg" for n in range(12)])) if r[0] != head[0][0]]
    assert others
    eventually(lambda: len(shared.results(others).images) == len(others), 15, shared.worker.said)
    assert shared.results(head).coordinates == [], "the drip ended too early to prove anything"
    slow.clear()
    account.over()
    shared.settle(account, head + others)
    account.recovered()


@pytest.mark.chaos
def test_the_store_is_down(shared: SharedWorker, account: Account) -> None:
    """Guard: an object is blamed only when others of its bucket were read since it first failed. The outage lasts for
    longer than `unreadable_s`."""
    keys = [f"down-{number}-{next(_seeds)}.jpg" for number in range(8)]
    given = fresh(shared, *keys)
    s3 = shared.site.stack.s3
    tries = retries(shared)
    s3.stop()
    try:
        records = shared.send(given)
        eventually(lambda: retries(shared) > tries and in_flight(shared.worker) >= 1, 20, shared.worker.said)
        account.landed()
        time.sleep(6.0)
        assert shared.results(records).coordinates == []
    finally:
        s3.start()
    account.over()
    assert shared.settle(account, records).keys == sorted(keys)
    account.recovered()


def retries(shared: SharedWorker) -> float:
    return shared.worker.metric("tagstream_retries_total", dependency="s3")


IMAGES = 60


def open_breakers(process: WorkerProcess) -> float:
    """Of the object store, with or without a probe on its way."""
    return sum(process.metric("tagstream_breakers", dependency="s3", state=state) for state in ("open", "half-open"))


def test_a_store_that_fails_for_every_object_for_a_while(shared: SharedWorker, account: Account) -> None:
    """Guard: the bucket's breaker (BucketBreakers.may_ask); otherwise each waiting image asks on its own.
    tests/unit/pipeline/test_store_breaker.py covers the release of all images at once."""
    keys = [f"outage-{number}.jpg" for number in range(IMAGES)]
    for number, key in enumerate(keys):
        shared.site.upload(key, photo(5_000 + number))
    shared.store.lies["*"] = says(503)
    records = shared.send([(shared.site.own(key), ()) for key in keys])
    eventually(lambda: open_breakers(shared.worker) == 1, 30, shared.worker.said)
    account.landed()
    time.sleep(2.0)  # GETs that were under way when it opened come to their end
    told = shared.store.told.total()
    time.sleep(8.0)
    # A probe every few seconds, each trying for retry_s.
    assert shared.store.told.total() - told <= 40, "one image at a time may ask"
    assert shared.results(records).coordinates == []
    shared.store.lies.clear()
    account.over()
    began = time.monotonic()
    eventually(lambda: open_breakers(shared.worker) == 0, 15, shared.worker.said)
    assert shared.settle(account, records).keys == sorted(keys)
    assert time.monotonic() - began < 20
    account.recovered()


@pytest.mark.chaos
def test_a_worker_is_stopped_while_its_broker_is_away(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: one deadline for the end of all threads (Worker._shut_down). tests/unit/pipeline/test_reconciling.py
    covers Publisher.interrupt, which saves most of that time."""
    load(breakable_site, 600)
    with worker(breakable_site, "w", tmp_path, **behind_proxy(broker, TAGSTREAM_DRAIN_S="3")) as process:
        publishes(process)
        catch_open_transaction(broker.servers, f"{breakable_site.name}-w", broker.kill, 60)
        assert held(process) > 0
        account.landed()
        time.sleep(2.0)  # the commit was sent, or the next producer
        began = time.monotonic()
        assert process.terminate() == 0, process.said()
        # Time of a deployment beyond the drain for the end of threads and clients: 20 of its 45 s of grace.
        assert time.monotonic() - began < 3 + 20, process.said()
    broker.start()
    with worker(breakable_site, "w", tmp_path, **behind_proxy(broker)) as heir:
        account.over()
        publishes(heir)
        account.recovered()
        eventually(lambda: held(heir) == 0, 60, heir.said)
        assert heir.terminate() == 0, heir.said()
    account.assert_site(breakable_site)
