"""Three brokers, one of them dies: work continues without it, and no lost marker excuses a repeat here."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.chaos.account import Account
from tests.chaos.cluster import SESSION_S, Cluster, Node
from tests.chaos.scenes import load, published
from tests.chaos.shared_worker import is_committed
from tests.fixtures import Stack, Unique, up_or_skip
from tests.support.broker import catch_open_transaction
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, worker
from workers.backends.kafka.client import answers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def cluster(scratch: Scratch) -> Iterator[Cluster]:
    yield from up_or_skip(Cluster(scratch.path / "cluster"))


@pytest.fixture
def replicated_site(cluster: Cluster, s3: SeaweedFS, valkey: Valkey, unique: Unique) -> Iterator[Site]:
    """Topics with three replicas."""
    yield Site(Stack(cluster.nodes[0], s3, valkey), unique("cluster"))
    cluster.restore()


def makes_progress(process: WorkerProcess, replicated_site: Site, transactions: float) -> bool:
    """Whether it has published this many transactions, or had too little work left for them."""
    return published(process) >= transactions or is_committed(replicated_site)


@pytest.mark.parametrize("strike", [Node.kill, Node.stop, Node.freeze])
def test_each_node_in_turn_is_lost_for_a_while(
    cluster: Cluster, replicated_site: Site, account: Account, tmp_path: Path, strike: Callable[[Node], None]
) -> None:
    """Guards: the question to the brokers after an unclear commit, or transactions are lost; RetryingNetClient, or a
    killed node's request is never answered; several attempts to connect, or a frozen node is waited for again; the
    pause before the next search for the coordinator, or the log has thousands of lines. A stopped node needs no guard.
    """
    settings = {"TAGSTREAM_REDIS_URL": "", "transaction_outcomes": "4"}
    with worker(replicated_site, "w", tmp_path, **settings) as process:
        load(replicated_site, 40)
        eventually(lambda: is_committed(replicated_site), 60, process.said)
        for node in cluster.nodes:
            cluster.whole(replicated_site.images, replicated_site.enriched)
            load(replicated_site, 200)
            catch_open_transaction(cluster.servers, f"{replicated_site.name}-w", partial(strike, node), 30)
            account.landed()
            account.over()
            # Without it: the others take its partitions over.
            eventually(partial(makes_progress, process, replicated_site, published(process) + 3), 90, process.said)
            account.recovered()
            cluster.restore()
            eventually(lambda: is_committed(replicated_site), 90, process.said)
        assert process.terminate() == 0, process.said()
        assert process.log.read_text().count("Marking the coordinator dead") < 300, "requests without a pause"
    account.settle(replicated_site.inputs(), replicated_site.outcomes(), len(replicated_site.letters()), 0)
    replicated_site.assert_in_order()


def test_a_node_that_died_is_missed_until_the_others_do_without_it(cluster: Cluster, replicated_site: Site) -> None:
    """Guard: every broker that is named is asked. With one of them asked, a commit that waits for a node which died to
    be replaced passes for one that its client has forgotten, and the worker ends itself."""
    cluster.whole(replicated_site.images, replicated_site.enriched)  # a node that is back is named a little later
    assert answers(cluster.servers, {})
    began = time.monotonic()
    cluster.nodes[2].kill()
    missed = not answers(cluster.servers, {})
    assert missed or time.monotonic() - began > SESSION_S, "the node that died was not asked"
    eventually(lambda: answers(cluster.servers, {}), 60)
    cluster.restore()
