"""The broker is restarted, away, frozen or cut off while workers publish: each record's outcomes are there once."""

from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient
from kafka.structs import TopicPartition

from tests.chaos.account import Account
from tests.chaos.scenes import assert_finishes, behind_proxy, failed, load, settled
from tests.chaos.shared_worker import is_committed
from tests.support.broker import BrokerBehindProxy, transaction_state
from tests.support.kafka_proxy import Api
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, WorkerProcess, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]


def test_broker_frozen_during_a_commit_beyond_the_request_timeout(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: the committed offset settles an unclear commit; the client's error alone would repeat outcomes."""
    long_session = {"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "60", "kafka_transaction_timeout_s": "10"}
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **long_session)) as process:
        before = failed(process)
        commit = broker.proxy.hold(Api.END_TXN, "answer")
        load(breakable_site, 60)
        commit.wait_caught()
        broker.freeze()
        eventually(lambda: failed(process) > before, 13, process.said)
        account.landed()
        commit.release()
        broker.thaw()
        account.over()
        assert_finishes(breakable_site, process, account)


def test_a_dead_network_to_the_broker(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: the publisher's request timeouts; old connections stay silent for good."""

    def state() -> str:
        return transaction_state(broker.servers, f"{breakable_site.name}-w")

    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker)) as process:
        sent = broker.proxy.hold(Api.PRODUCE, "answer")
        load(breakable_site, 60)
        sent.wait_caught()
        assert state() == "Ongoing"
        broker.proxy.freeze()
        # The broker is well: it aborts the transaction that no producer ends.
        eventually(lambda: state() == "CompleteAbort", 40, process.said)
        account.landed()
        broker.proxy.forget()
        account.over()
        assert_finishes(breakable_site, process, account)


def test_two_processes_with_one_transactional_id(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: FencingDetector; without it the two would take the id from each other for ever and say nothing."""
    load(breakable_site, 40)
    same_id = behind_proxy(broker, TAGSTREAM_TRANSACTIONAL_ID="one-id")
    with (
        worker(breakable_site, "w1", tmp_path, **same_id) as first,
        worker(breakable_site, "w2", tmp_path, **same_id) as second,
    ):
        # Records of a known image keep coming.
        with meanwhile(
            lambda: breakable_site.send([(breakable_site.own(f"{number}.jpg"), ()) for number in range(12)]), 0.5
        ):
            eventually(lambda: _one_left(first, second), 90, second.said)
        account.landed()
        gone, left = (first, second) if not first.running else (second, first)
        assert gone.exit_code == 3, gone.said()
        assert "another process has our transactional id" in gone.said()
        account.over()
        eventually(lambda: is_committed(breakable_site) or not left.running, 90, left.said)
        account.recovered()
        left.terminate()
    if not is_committed(breakable_site):
        with worker(breakable_site, "w3", tmp_path, **behind_proxy(broker)) as heir:
            eventually(lambda: is_committed(breakable_site), 90, heir.said)
            assert heir.terminate() == 0
    account.assert_site(breakable_site)


def _one_left(first: WorkerProcess, second: WorkerProcess) -> bool:
    return (first.running) != (second.running)


def test_output_topic_missing(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: topics are looked up at the start; kafka-python leaves the unknown topic out and commits the rest."""
    load(breakable_site, 5)
    missing = behind_proxy(broker, TAGSTREAM_OUTPUT_TOPIC="never-made")
    process = WorkerProcess(breakable_site, "w", tmp_path, **missing)
    assert process.wait_gone(90) == 2, process.said()
    assert "never-made" in process.said()
    account.landed()
    assert breakable_site.outcomes() == [], "the topic must stay untouched"
    with worker(breakable_site, "w", tmp_path, **behind_proxy(broker)) as heir:
        account.over()
        assert_finishes(breakable_site, heir, account)


def test_offset_out_of_range_stops_and_names_the_gap(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: auto_offset_reset="none"; `earliest` would skip the gap silently."""
    load(breakable_site, 40)
    with worker(breakable_site, "w", tmp_path, **behind_proxy(broker)) as process:
        eventually(lambda: is_committed(breakable_site), 60, process.said)
        assert process.terminate() == 0
    before = breakable_site.outcomes()
    load(breakable_site, 40)
    partition = TopicPartition(breakable_site.images, breakable_site.inputs()[-1][0])
    end = max(offset for number, offset, _ in breakable_site.inputs() if number == partition.partition)
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.delete_records({partition: end})
    admin.close()
    account.landed()
    process = WorkerProcess(breakable_site, "w", tmp_path, **behind_proxy(broker))
    try:
        assert process.wait_gone(120) == 3, process.said()
    finally:
        if process.running:
            process.kill()
    said = process.said()
    assert f"{breakable_site.images}" in said
    assert str(end) in said, said
    assert not [c for c in breakable_site.outcomes() if c not in before and c[0] == partition.partition]
