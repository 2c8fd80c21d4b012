"""A worker of two processes is struck while 20,000 records flow: nothing is lost, nothing comes twice."""

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.scenes import BUSY, come_through, load, published
from tests.support.processes import family, survivors
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, worker, workers_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

RECORDS = 20_000


def flowing(site: Site, parent: WorkerProcess) -> None:
    """Until both commit, while records are left."""
    before = [published(parent, worker=f"{number}") for number in (1, 2)]
    eventually(
        lambda: all(published(parent, worker=f"{number}") > before[number - 1] for number in (1, 2)), 60, parent.said
    )
    assert site.behind() > 0, "all was done before the strike"


def kill_with_all(parent: WorkerProcess) -> None:
    """kill -9 of the parent, which its workers do not outlive."""
    assert parent.pid is not None
    everyone = family(parent.pid)
    parent.kill()
    assert survivors(everyone) == []


def test_kills_of_a_worker_of_the_parent_and_of_both_among_20_000_records(
    steady_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: each worker keeps its transactional id over restarts, and none outlives the parent: a second worker with
    the id of one that lives on is fenced, or fences it, and both have the partitions."""
    settings = BUSY | {
        "TAGSTREAM_REDIS_URL": steady_site.stack.valkey.url,
        "transaction_outcomes": "50",
        "jobs_ahead": "200",
        "TAGSTREAM_WORKERS": "2",
        "TAGSTREAM_LOG_FORMAT": "text",
    }
    load(steady_site, RECORDS)
    with worker(steady_site, "w", tmp_path, **settings) as parent:
        flowing(steady_site, parent)
        account.landed()
        os.kill(workers_of(parent)[1], signal.SIGKILL)
        eventually(lambda: parent.get("/readyz")[0] != 200, 30, parent.said)
        eventually(lambda: parent.get("/readyz")[0] == 200, 90, parent.said)
        flowing(steady_site, parent)
        kill_with_all(parent)
    with worker(steady_site, "w", tmp_path, **settings) as parent:
        flowing(steady_site, parent)
        os.kill(workers_of(parent)[2], signal.SIGKILL)
        kill_with_all(parent)
    with worker(steady_site, "w", tmp_path, **settings) as heir:
        account.over()
        come_through(steady_site, heir, account, 240)
    account.assert_site(steady_site)
