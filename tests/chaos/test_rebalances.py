"""Partitions move at the wrong moment: between two steps of a transaction, within a batch, or again and again."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.chaos.account import Account
from tests.chaos.scenes import BUSY, SESSION_S, behind_proxy, come_through, failed, load, published, reads, settled
from tests.chaos.shared_worker import is_committed
from tests.chaos.unruly import Unruly
from tests.support.broker import BrokerBehindProxy
from tests.support.kafka_proxy import Api, Hold
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, WorkerProcess, worker
from workers.backends.kafka import KafkaRecordSource, ensure_topics
from workers.types import Assignment

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

STORM_S = 30
LONG_SESSION = {"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "60", "kafka_transaction_timeout_s": "10"}


@contextmanager
def guest(site: Site, topic: str, taken: set[Assignment] | None = None) -> Iterator[KafkaRecordSource]:
    """A member of the group that is no worker: it takes its part of a topic, adds it to `taken`, and leaves."""
    source = KafkaRecordSource(site.stack.kafka.servers, site.name, [topic])

    def poll() -> None:
        polled = source.poll(0.1)
        if taken is not None:
            taken.update(polled.started)

    try:
        with meanwhile(poll, 0):
            eventually(lambda: source.membership().generation > 0, 20)
            yield source
    finally:
        source.close()


@pytest.fixture
def elsewhere(breakable_site: Site) -> str:
    topic = f"{breakable_site.name}.elsewhere"
    ensure_topics(breakable_site.stack.kafka.servers, {topic: (1, {})})
    return topic


@contextmanager
def waiting_to_join(
    broker: BrokerBehindProxy, site: Site, folder: Path, **settings: str
) -> Iterator[tuple[WorkerProcess, Hold]]:
    joining = broker.proxy.hold(Api.JOIN_GROUP)
    process = WorkerProcess(site, "w2", folder, **settings)
    try:
        joining.wait_caught(60)
        yield process, joining
        process.metric("")
    finally:
        process.kill()


def assert_all_come_through(site: Site, account: Account, *crowd: WorkerProcess) -> None:
    before = sum(map(published, crowd))
    eventually(lambda: sum(map(published, crowd)) > before or is_committed(site), 40, crowd[0].said)
    account.recovered()
    eventually(lambda: is_committed(site), 120, crowd[0].said)
    assert [process.terminate() for process in crowd] == [0] * len(crowd), [process.said() for process in crowd]
    account.assert_site(site)


def test_partitions_move_between_the_flush_and_the_offsets(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: an assignment that has ended refuses the transaction. The broker lets a valid member commit for any
    partition, and the outcomes that the new owner has published come a second time."""
    settings = behind_proxy(broker, **LONG_SESSION)
    with (
        settled(breakable_site, "w", tmp_path, **settings) as loser,
        waiting_to_join(broker, breakable_site, tmp_path, **settings) as (winner, joining),
    ):
        done, before = published(loser), failed(loser, cause="membership")
        sent = broker.proxy.hold(Api.PRODUCE, "answer")
        load(breakable_site, 80)
        sent.wait_caught()
        joining.release()
        # It publishes while the other's outcomes are not visible to readers yet.
        eventually(lambda: published(winner) > 0, 30, winner.said)
        account.landed()
        sent.release()
        account.over()
        # A worker that does not look publishes it.
        eventually(lambda: failed(loser, cause="membership") > before or published(loser) > done, 20, loser.said)
        assert_all_come_through(breakable_site, account, loser, winner)


def test_a_worker_frozen_between_the_flush_and_the_offsets(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: no commit without a generation; the broker would accept outcomes whose records another worker has."""
    settings = behind_proxy(broker, TAGSTREAM_KAFKA_SESSION_TIMEOUT_S="2")
    with (
        settled(breakable_site, "w", tmp_path, **settings) as sleeper,
        worker(breakable_site, "w2", tmp_path, **settings | {"TAGSTREAM_KAFKA_SERVERS": broker.servers}) as other,
    ):
        eventually(lambda: reads(sleeper) and reads(other), 30, other.said)
        sent = broker.proxy.hold(Api.PRODUCE, "answer")
        load(breakable_site, 40)
        sent.wait_caught()
        sleeper.freeze()
        try:
            eventually(lambda: is_committed(breakable_site), 30, other.said)
            account.landed()
        finally:
            sleeper.thaw()
        # Long enough for a heartbeat, which learns that the group knows it no more.
        time.sleep(0.8)
        sent.release()
        load(breakable_site, 40)
        account.over()
        assert_all_come_through(breakable_site, account, sleeper, other)


def test_a_worker_frozen_while_it_rejoins(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: a new member id ends the assignments. A rejoining member gets its partitions back under a new id without a
    callback; otherwise all its commits are refused."""
    settings = behind_proxy(broker, TAGSTREAM_KAFKA_SESSION_TIMEOUT_S=str(SESSION_S))
    straight = settings | {"TAGSTREAM_KAFKA_SERVERS": broker.servers}
    with settled(breakable_site, "w", tmp_path, **settings) as sleeper:
        joining = broker.proxy.hold(Api.JOIN_GROUP)
        with worker(breakable_site, "substitute", tmp_path, **straight) as substitute:
            joining.wait_caught()
            sleeper.freeze()
            try:
                load(breakable_site, 40)
                eventually(lambda: is_committed(breakable_site), 60, substitute.said)
                assert substitute.terminate() == 0, substitute.said()
                account.landed()
            finally:
                joining.release()
                sleeper.thaw()
        load(breakable_site, 40)
        account.over()
        assert_all_come_through(breakable_site, account, sleeper)


def test_a_join_that_the_client_forgets(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, elsewhere: str
) -> None:
    """Guard: each poll completes a join that has begun. Otherwise the client never reads the answer to a join that
    began while a topic was missing, is expelled, and every commit is refused."""
    admin = AdminClient({"bootstrap.servers": broker.servers})
    both = {
        "TAGSTREAM_INPUT_TOPICS": f"{breakable_site.images},{elsewhere}",
        "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
    }
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **both)) as process:
        joining = broker.proxy.hold(Api.JOIN_GROUP)
        admin.delete_topics([elsewhere])[elsewhere].result(10)
        joining.wait_caught(60)
        ensure_topics(broker.servers, {elsewhere: (1, {})})
        # Long enough for a member that polls to see it.
        time.sleep(2)
        account.landed()
        joining.release()
        account.over()
        time.sleep(2 * SESSION_S)
        load(breakable_site, 40)
        come_through(breakable_site, process, account)
    account.assert_site(breakable_site)


def test_partitions_move_during_a_batch(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: the ledger drops results for an ended assignment; the new owner computes them again."""
    unruly = Unruly(tmp_path / "package")
    settings = behind_proxy(broker, **LONG_SESSION)
    with (
        settled(breakable_site, "w", tmp_path, **settings | unruly.settings()) as loser,
        waiting_to_join(broker, breakable_site, tmp_path, **settings) as (winner, joining),
    ):
        unruly.order(slow_s=4)
        load(breakable_site, 80)
        eventually(lambda: loser.metric("tagstream_images_in_flight", stage="annotate") > 0, 20, loser.said)
        joining.release()
        eventually(lambda: published(winner) > 0, 30, winner.said)
        account.landed()
        unruly.order()
        account.over()
        eventually(lambda: loser.metric("tagstream_dropped_jobs_total") > 0, 20, loser.said)
        assert_all_come_through(breakable_site, account, loser, winner)


def test_a_member_joins_between_the_flush_and_the_offsets(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, elsewhere: str
) -> None:
    """Guard: the membership is read at the commit. Read before the flush, or kept per job, its generation is older
    than the join, and the broker refuses the offsets of partitions that never left."""
    patient = LONG_SESSION | {"kafka_transaction_timeout_s": "60"}  # a member joins within, on a busy machine too
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **patient)) as process:
        before = failed(process)
        sent = broker.proxy.hold(Api.PRODUCE, "answer")
        load(breakable_site, 60)
        sent.wait_caught()
        with guest(breakable_site, elsewhere):
            account.landed()
            sent.release()
            account.over()
            eventually(lambda: is_committed(breakable_site), 60, process.said)
            assert failed(process) == before
            come_through(breakable_site, process, account)
    account.assert_site(breakable_site)


def test_offsets_are_refused_because_a_member_has_joined(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, elsewhere: str
) -> None:
    """Guard: a record stays in the ledger until its commit is known; no other worker would publish the outcomes."""
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **LONG_SESSION)) as process:
        before, dropped = failed(process, cause="membership"), process.metric("tagstream_dropped_jobs_total")
        offsets = broker.proxy.hold(Api.TXN_OFFSET_COMMIT)
        load(breakable_site, 60)
        offsets.wait_caught()
        with guest(breakable_site, elsewhere):
            account.landed()
            offsets.release()
            account.over()
            eventually(lambda: failed(process, cause="membership") > before, 20, process.said)
            assert process.metric("tagstream_dropped_jobs_total") == dropped, "the partitions must be retained"
            come_through(breakable_site, process, account)
    account.assert_site(breakable_site)


def test_retained_partitions_are_read_on_after_every_rebalance(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, elsewhere: str
) -> None:
    """Guard: a new generation alone ends no assignment; otherwise each join costs the work in progress."""
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **LONG_SESSION)) as process:
        for _ in range(4):
            sent = broker.proxy.hold(Api.PRODUCE, "answer")
            load(breakable_site, 24)
            sent.wait_caught()
            with guest(breakable_site, elsewhere):
                account.landed()
                sent.release()
                load(breakable_site, 24)
                account.over()
                eventually(lambda: is_committed(breakable_site), 30, process.said)
                account.recovered()
        read = process.metric("messaging_client_consumed_messages_total")
        assert process.terminate() == 0, process.said()
        assert read == len(breakable_site.inputs())
    account.assert_site(breakable_site)


def test_a_storm_of_rebalances(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the committed offset is read at each beginning of a partition. All guards above are needed too."""
    over = threading.Event()
    generations: set[int] = set()
    taken: set[Assignment] = set()

    def come_and_go(seed: int) -> None:
        moments = random.Random(seed)
        while not over.is_set():
            with guest(steady_site, steady_site.images, taken) as member:
                over.wait(moments.uniform(0.5, 2))
                generations.add(member.membership().generation)
            # Else guests hand partitions to guests, and no worker gets one back.
            over.wait(moments.uniform(0.5, 3))

    with worker(steady_site, "w1", tmp_path, **BUSY) as first, worker(steady_site, "w2", tmp_path, **BUSY) as second:
        load(steady_site, 60)
        eventually(lambda: published(first) + published(second) > 0, 60, first.said)
        crowd = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(3)]
        for member in crowd:
            member.start()
        end = time.monotonic() + STORM_S
        while time.monotonic() < end:
            load(steady_site, 60)
            time.sleep(2)
        over.set()
        for member in crowd:
            member.join()
        assert max(generations) - min(generations) > STORM_S / 5, "that was no storm"
        assert len(taken) > steady_site.partitions, "too few partitions moved"
        account.landed()
        account.over()
        assert_all_come_through(steady_site, account, first, second)
