"""Workers are stopped, killed, frozen, added and removed under load: nothing is lost, nothing comes twice."""

import random
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.scenes import BUSY, assert_inherited, busy, load, published, reads
from tests.chaos.shared_worker import in_flight, is_committed
from tests.fixtures import Stack, Unique
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(500)]


def test_sigterm_while_the_worker_still_loads_its_model(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the signal handler is in place before anything is loaded; the default one leaves with -15."""
    load(steady_site, 8)
    process = WorkerProcess(steady_site, "w", tmp_path, **BUSY)
    try:
        eventually(lambda: process.get("/livez")[0] == 200, 60, process.said)
        assert process.get("/readyz")[0] != 200
        account.landed()
        assert process.terminate() == 0, process.said()
    finally:
        if process.running:
            process.kill()
    assert steady_site.outcomes() == []
    assert_inherited(steady_site, account, tmp_path, BUSY, within_s=60)


def test_sigkill_again_and_again_under_load(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: outcomes and offsets in one transaction, and the same transactional id after a restart."""
    load(steady_site, 900)
    moments = random.Random(7)
    for _ in range(5):
        with worker(steady_site, "w", tmp_path, **BUSY) as victim:
            busy(victim)
            time.sleep(moments.uniform(0, 0.5))
            assert in_flight(victim) > 0
            account.landed()
            victim.kill()
    assert_inherited(steady_site, account, tmp_path, BUSY, within_s=120)


def test_a_frozen_worker_wakes_after_its_partitions_moved(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the membership is checked against every assignment before offsets are sent; with the live metadata of a
    member that was expelled, (-1, ''), the broker checks nothing and takes the outcomes a second time."""
    with worker(steady_site, "w1", tmp_path, **BUSY) as sleeper, worker(steady_site, "w2", tmp_path, **BUSY) as other:
        eventually(lambda: reads(sleeper) and reads(other), 40, other.said)
        load(steady_site, 700)
        busy(sleeper)
        sleeper.freeze()
        try:
            eventually(
                lambda: other.metric("tagstream_partitions", state="reading") == steady_site.partitions, 40, other.said
            )
            account.landed()
        finally:
            sleeper.thaw()
        account.over()
        before = published(other) + published(sleeper)
        eventually(lambda: published(other) + published(sleeper) > before or is_committed(steady_site), 30, other.said)
        account.recovered()
        eventually(lambda: is_committed(steady_site), 120, other.said)
        assert sleeper.terminate() == 0, sleeper.said()
        assert other.terminate() == 0, other.said()
    account.assert_site(steady_site)


def test_a_frozen_worker_that_gets_the_same_partitions_back(
    steady_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: the committed offset decides the position, as another worker had the partitions meanwhile."""
    load(steady_site, 1500)
    with worker(steady_site, "w", tmp_path, **BUSY) as sleeper:
        busy(sleeper)
        sleeper.freeze()
        try:
            with worker(steady_site, "substitute", tmp_path, **BUSY) as substitute:
                eventually(lambda: published(substitute) > 5, 40, substitute.said)
                assert substitute.terminate() == 0, substitute.said()
        finally:
            sleeper.thaw()
        done = len(steady_site.outcomes())
        assert done < 1500, "nothing was left to do"
        account.landed()
        account.over()
        eventually(lambda: len(steady_site.outcomes()) > done, 30, sleeper.said)
        account.recovered()
        eventually(lambda: is_committed(steady_site), 120, sleeper.said)
        assert sleeper.terminate() == 0, sleeper.said()
    account.assert_site(steady_site)


def test_members_join_and_leave_by_sigterm_and_by_sigkill(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: metadata is read at the commit and not per job, else it is refused for ever after one join. That retained
    partitions keep their place in the client is the record source's contract."""
    with worker(steady_site, "stays", tmp_path, **BUSY) as stays:
        load(steady_site, 300)
        busy(stays)
        for number, leaves_by in enumerate(("SIGTERM", "SIGKILL", "SIGTERM")):
            with worker(steady_site, f"guest-{number}", tmp_path, **BUSY) as guest:
                eventually(partial(reads, guest), 40, guest.said)
                load(steady_site, 300)
                eventually(lambda: in_flight(stays) > 0, 30, stays.said)
                account.landed()
                if leaves_by == "SIGTERM":
                    assert guest.terminate() == 0, guest.said()
                else:
                    guest.kill()
        account.over()
        before = published(stays)
        eventually(lambda: published(stays) > before or is_committed(steady_site), 30, stays.said)
        account.recovered()
        eventually(lambda: is_committed(steady_site), 180, stays.said)
        assert stays.terminate() == 0, stays.said()
    account.assert_site(steady_site)


def test_two_then_five_workers_then_two(stack: Stack, unique: Unique, account: Account, tmp_path: Path) -> None:
    """Guard: each owner begins at the committed offset, read after it joined; elsewhere records come twice."""
    site = Site(stack, unique("line"), partitions=6)
    load(site, 600)
    with ExitStack() as crowd:

        def start(replica: str) -> WorkerProcess:
            process = WorkerProcess(site, replica, tmp_path, **BUSY)
            crowd.callback(process.kill)
            return process

        first, second = start("w1"), start("w2")
        busy(first)
        others = [start(f"w{number}") for number in (3, 4, 5)]
        for process in others:
            process.wait_ready()
        load(site, 600)
        eventually(lambda: all(map(reads, (first, second, *others))), 60, first.said)
        assert in_flight(first) > 0
        account.landed()
        assert first.terminate() == 0, first.said()
        for process in others[:2]:
            process.kill()
        account.over()
        left = (second, others[2])
        before = sum(map(published, left))
        eventually(lambda: sum(map(published, left)) > before, 30, second.said)
        account.recovered()
        eventually(lambda: is_committed(site), 180, second.said)
        assert [process.terminate() for process in left] == [0, 0]
    # An open transaction of a killed worker, which never returns, hides what follows until the broker aborts it.
    eventually(lambda: len(site.outcomes()) >= 1_200, 60)
    account.assert_site(site)
