"""A dependency that is away is left alone, all go on at once when it is back, and nothing waits for it at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.scenes import behind_proxy, load, publishes
from tests.chaos.shared_worker import SharedWorker, held
from tests.support.broker import BrokerBehindProxy, catch_open_transaction
from tests.support.lying_store import says
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.timeout(240)

IMAGES = 60


@pytest.fixture(autouse=True)
def _truth_again(shared: SharedWorker) -> Iterator[None]:
    yield
    shared.store.lies.clear()


def open_breakers(process: WorkerProcess) -> float:
    """Of the object store, with or without a probe on its way."""
    return sum(process.metric("tagstream_breakers", dependency="s3", state=state) for state in ("open", "half-open"))


def test_a_store_that_fails_for_every_object_for_a_while(shared: SharedWorker, account: Account) -> None:
    """Guard: the bucket's breaker (BucketBreakers.may_ask, and who is due while it is open). Without it each image that
    waits asks on its own, again and again. That all are released at once is proved where time is made by hand, in
    tests/unit/pipeline/test_store_breaker.py."""
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
    broker: BrokerBehindProxy, outpost: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: one deadline for the end of all threads (Worker._shut_down). Without it the process waits for its publish
    thread, and that one for the broker. Publisher.interrupt, which spares it most of that time, is proved in
    tests/unit/pipeline/test_reconciling.py."""
    load(outpost, 600)
    with worker(outpost, "w", tmp_path, **behind_proxy(broker, TAGSTREAM_DRAIN_S="3")) as process:
        publishes(process)
        catch_open_transaction(broker.servers, f"{outpost.name}-w", broker.kill, 60)
        assert held(process) > 0
        account.landed()
        time.sleep(2.0)  # the commit was asked for, or the next producer
        began = time.monotonic()
        assert process.terminate() == 0, process.said()
        # What a deployment has beyond the drain's time for the end of threads and clients: 20 of its 45 s of grace.
        assert time.monotonic() - began < 3 + 20, process.said()
    broker.start()
    with worker(outpost, "w", tmp_path, **behind_proxy(broker)) as heir:
        account.over()
        publishes(heir)
        account.recovered()
        eventually(lambda: held(heir) == 0, 60, heir.said)
        assert heir.terminate() == 0, heir.said()
    account.settle_site(outpost)
