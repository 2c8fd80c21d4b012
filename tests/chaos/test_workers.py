"""Workers are stopped, killed, frozen, added and removed under load: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.line import in_flight, is_committed
from tests.integration.worker_process import Site, WorkerProcess, eventually, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(500)]

SESSION_S = 4
BUSY = {
    "TAGSTREAM_REDIS_URL": "",
    "TAGSTREAM_RUN_OUTCOMES": "8",
    "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
    "TAGSTREAM_JOBS_AHEAD": "30",
}
"""No cache, small transactions, a session that lapses soon, and a short reach, so that work lasts for a while."""


def load(site: Site, records: int, pictures: int = 40) -> None:
    for number in range(pictures):
        site.upload(f"{number}.jpg", photo(number, 96))
    site.send([(site.own(f"{number % pictures}.jpg"), ()) for number in range(records)])


def published(process: WorkerProcess) -> float:
    return process.metric("tagstream_runs_published_total")


def busy(process: WorkerProcess) -> None:
    """Until its metrics say that pictures are in flight and outcomes come out."""
    eventually(lambda: in_flight(process) > 0 and published(process) > 0, 60, process.said)


def reads(process: WorkerProcess) -> bool:
    """Whether it has partitions."""
    return process.metric("tagstream_partitions", state="reading") > 0


def test_sigterm_with_pictures_in_flight_drains_within_the_grace_period(
    home: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: the drain; a worker that leaves at once loses nothing either, but has its last pictures done twice over,
    and one that does not stop admitting never ends."""
    load(home, 600)
    with worker(home, "w", tmp_path, **BUSY) as process:
        busy(process)
        account.landed()
        began = time.monotonic()
        assert process.terminate() == 0, process.said()
        assert time.monotonic() - began < 30
        assert "drained, 0 records left behind" in process.said()
    done = len(home.outcomes())
    assert 0 < done < 600, "the stop came too early or too late to prove anything"
    with worker(home, "w", tmp_path, **BUSY) as heir:
        account.over()
        eventually(lambda: published(heir) > 0, 30, heir.said)
        account.recovered()
        eventually(lambda: is_committed(home), 120, heir.said)
        assert heir.terminate() == 0
    account.settle_site(home)


def test_sigterm_while_the_worker_still_loads_its_model(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the signal handler is in place before anything is loaded; the default one leaves with -15."""
    load(home, 8)
    process = WorkerProcess(home, "w", tmp_path, **BUSY)
    try:
        eventually(lambda: process.get("/livez")[0] == 200, 60, process.said)
        assert process.get("/readyz")[0] != 200
        account.landed()
        assert process.terminate() == 0, process.said()
    finally:
        if process.running:
            process.kill()
    assert home.outcomes() == []
    with worker(home, "w", tmp_path, **BUSY) as heir:
        account.over()
        eventually(lambda: is_committed(home), 60, heir.said)
        account.recovered()
    account.settle_site(home)


def test_sigkill_again_and_again_under_load(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: outcomes and offsets in one transaction, and the same transactional id after a restart. With offsets
    committed beside it, what was published and not yet committed comes twice."""
    load(home, 900)
    moments = random.Random(7)
    for _ in range(5):
        with worker(home, "w", tmp_path, **BUSY) as victim:
            busy(victim)
            time.sleep(moments.uniform(0, 0.5))
            assert in_flight(victim) > 0
            account.landed()
            victim.kill()
    with worker(home, "w", tmp_path, **BUSY) as heir:
        account.over()
        eventually(lambda: published(heir) > 0, 30, heir.said)
        account.recovered()
        eventually(lambda: is_committed(home), 120, heir.said)
        assert heir.terminate() == 0
    account.settle_site(home)


def test_a_frozen_worker_wakes_after_its_partitions_moved(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the membership is checked against every epoch before offsets are sent; with the live metadata of a member
    that was expelled, (-1, ''), the broker checks nothing and takes the outcomes a second time."""
    load(home, 700)
    with worker(home, "w1", tmp_path, **BUSY) as sleeper, worker(home, "w2", tmp_path, **BUSY) as other:
        busy(sleeper)
        sleeper.freeze()
        try:
            eventually(lambda: other.metric("tagstream_partitions", state="reading") == home.partitions, 40, other.said)
            account.landed()
        finally:
            sleeper.thaw()
        account.over()
        before = published(other) + published(sleeper)
        eventually(lambda: published(other) + published(sleeper) > before or is_committed(home), 30, other.said)
        account.recovered()
        eventually(lambda: is_committed(home), 120, other.said)
        assert sleeper.terminate() == 0, sleeper.said()
        assert other.terminate() == 0, other.said()
    account.settle_site(home)


def test_a_frozen_worker_that_gets_the_same_partitions_back(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: a new member id ends the epochs although no callback told so; committed offsets say where to go on."""
    load(home, 700)
    with worker(home, "w", tmp_path, **BUSY) as sleeper:
        busy(sleeper)
        sleeper.freeze()
        time.sleep(SESSION_S + 8)
        done = len(home.outcomes())
        assert done < 700
        account.landed()
        sleeper.thaw()
        account.over()
        eventually(lambda: len(home.outcomes()) > done, 30, sleeper.said)
        account.recovered()
        eventually(lambda: is_committed(home), 120, sleeper.said)
        assert sleeper.terminate() == 0, sleeper.said()
    account.settle_site(home)


def test_members_join_and_leave_by_sigterm_and_by_sigkill(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: metadata is read at the commit and not per job, else it is refused for ever after one join; and retained
    partitions are paused and resumed without losing their place in the client."""
    load(home, 900)
    with worker(home, "stays", tmp_path, **BUSY) as stays:
        busy(stays)
        for number, leaves_by in enumerate(("SIGTERM", "SIGKILL", "SIGTERM")):
            with worker(home, f"guest-{number}", tmp_path, **BUSY) as guest:
                eventually(partial(reads, guest), 40, guest.said)
                account.landed()
                if leaves_by == "SIGTERM":
                    assert guest.terminate() == 0, guest.said()
                else:
                    guest.kill()
        account.over()
        before = published(stays)
        eventually(lambda: published(stays) > before or is_committed(home), 30, stays.said)
        account.recovered()
        eventually(lambda: is_committed(home), 180, stays.said)
        assert stays.terminate() == 0, stays.said()
    account.settle_site(home)


def test_three_workers_join_in_the_middle_of_batches(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: jobs of an ended epoch are dropped before they are published; without it both owners publish them."""
    load(home, 900)
    with ExitStack() as crowd:
        first = crowd.enter_context(worker(home, "w0", tmp_path, **BUSY))
        busy(first)
        others = [WorkerProcess(home, f"w{number}", tmp_path, **BUSY) for number in (1, 2)]
        for process in others:
            crowd.callback(process.kill)
        for process in others:
            process.wait_ready()
        assert in_flight(first) > 0
        account.landed()
        account.over()
        eventually(lambda: is_committed(home) or all(map(reads, others)), 30)
        account.recovered()
        eventually(lambda: is_committed(home), 180, first.said)
        assert [process.terminate() for process in (first, *others)] == [0, 0, 0]
    account.settle_site(home)
