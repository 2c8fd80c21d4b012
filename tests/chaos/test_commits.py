"""Strikes at one step of a transaction: while outcomes are sent, while offsets join them, while it commits."""

import os
import time
from pathlib import Path

import pytest

from schemas.enriched_image import EnrichedImage
from tests.chaos.account import Account
from tests.chaos.scenes import (
    SESSION_S,
    assert_finishes,
    assert_inherited,
    behind_proxy,
    come_through,
    failed,
    inherit,
    limit_messages,
    load,
    published,
    settled,
)
from tests.chaos.shared_worker import held, is_committed
from tests.support.broker import BrokerBehindProxy, transaction_state
from tests.support.kafka_proxy import Api, Side
from tests.support.waiting import eventually
from tests.support.worker_process import Coordinates, Site

pytestmark = pytest.mark.timeout(300)

_HERE = Path(__file__).parent

SHORT_SESSION = {"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S)}
LONG_SESSION = {"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "60", "kafka_transaction_timeout_s": "10"}
"""Another test covers a lost membership."""


def state(broker: BrokerBehindProxy, site: Site) -> str:
    return transaction_state(broker.servers, f"{site.name}-w")


@pytest.mark.parametrize(
    ("side", "decided"),
    [
        # The fast one runs in `make test` too.
        pytest.param("request", "Ongoing", id="before the broker saw it"),
        pytest.param("answer", "CompleteCommit", id="before it was answered", marks=pytest.mark.chaos),
    ],
)
def test_worker_killed_while_it_commits(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, side: Side, decided: str
) -> None:
    """Guard: outcomes and offsets in one transaction. Separate offsets lose outcomes if first, and repeat if last."""
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **SHORT_SESSION)) as victim:
        commit = broker.proxy.hold(Api.END_TXN, side)
        load(breakable_site, 60)
        commit.wait_caught()
        eventually(lambda: state(broker, breakable_site) == decided, 10)
        account.landed()
        victim.kill()
        broker.proxy.cut()
        commit.release()
    assert_inherited(breakable_site, account, tmp_path, behind_proxy(broker, **SHORT_SESSION))


@pytest.mark.chaos
@pytest.mark.parametrize("side", ["request", "answer"])
def test_a_commit_without_an_answer(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, side: Side
) -> None:
    """Guard: the committed offset settles a failed commit. Counted as done, it is lost when the broker never saw the
    request; counted as undone, it comes twice when the answer was lost."""
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **LONG_SESSION)) as process:
        done, before = published(process), failed(process)
        commit = broker.proxy.hold(Api.END_TXN, side)
        load(breakable_site, 60)
        commit.wait_caught()
        eventually(lambda: failed(process) > before, 20, process.said)
        account.landed()
        account.over()
        eventually(lambda: published(process) > done + 1, 30, process.said)
        account.recovered()
        commit.release()
        assert_finishes(breakable_site, process, account)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("how", "away_s"),
    [
        pytest.param("SIGTERM", 0, id="restarted"),
        pytest.param("SIGKILL", 0, id="killed and restarted"),
        pytest.param("SIGTERM", 60, id="away for a minute"),
    ],
)
def test_broker_goes_away_before_offsets_are_sent(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, how: str, away_s: int
) -> None:
    """Guards: RetryingNetClient, or the request without a broker is never answered; and, for the minute, the clock that
    counts no time without a broker, or the worker ends instead of waiting."""
    # No transaction may time out before a killed broker leads its partitions again: it would lose the marker.
    hesitation = tmp_path / "hesitation"
    settings = behind_proxy(
        broker,
        HESITATION=str(hesitation),
        PYTHONPATH=os.pathsep.join([str(_HERE / "hesitation"), str(_HERE.parents[1])]),
        **LONG_SESSION | {"kafka_transaction_timeout_s": "90"},
    )
    with settled(breakable_site, "w", tmp_path, **settings) as process:
        hesitation.touch()
        load(breakable_site, 60)
        eventually(hesitation.with_name("reached").exists, 30, process.said)
        assert state(broker, breakable_site) == "Ongoing"
        (broker.stop if how == "SIGTERM" else broker.kill)()
        # The outcomes are acknowledged and every connection has ended: the next step has to make one.
        hesitation.unlink()
        time.sleep(2 + away_s)
        assert process.running, "a worker must wait for its broker"
        assert held(process) > 0
        account.landed()
        broker.start()
        account.over()
        assert_finishes(breakable_site, process, account)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("api", "delivery"),
    [
        pytest.param(Api.ADD_OFFSETS_TO_TXN, "exactly_once", id="adding offsets"),
        pytest.param(Api.TXN_OFFSET_COMMIT, "exactly_once", id="sending offsets"),
        pytest.param(Api.END_TXN, "exactly_once", id="committing"),
        pytest.param(Api.PRODUCE, "at_least_once", id="sending outcomes without transactions"),
    ],
)
def test_connections_cut_before_the_answer(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, api: Api, delivery: str
) -> None:
    """Guard: the client repeats unanswered requests on a new connection; otherwise the committed offset decides. The
    producer is idempotent without transactions too; otherwise repeats come twice."""
    settings = behind_proxy(broker, TAGSTREAM_DELIVERY=delivery, **LONG_SESSION)
    with settled(breakable_site, "w", tmp_path, **settings) as process:
        before = failed(process)
        step = broker.proxy.hold(api, "answer")
        load(breakable_site, 60)
        step.wait_caught()
        assert broker.proxy.cut() > 0
        step.release()
        account.landed()
        account.over()
        eventually(lambda: is_committed(breakable_site), 30, process.said)
        assert failed(process) == before
        assert_finishes(breakable_site, process, account)


@pytest.mark.chaos
def test_the_broker_times_a_transaction_out(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: a producer that was fenced once is replaced, and its transaction published again. Used again it is
    fenced for ever; taken for another process with our id, which it looks like, it ends the worker."""
    settings = behind_proxy(broker, **LONG_SESSION | {"kafka_transaction_timeout_s": "8"})
    with settled(breakable_site, "w", tmp_path, **settings) as process:
        before = failed(process, cause="fenced")
        sent, offsets = broker.proxy.hold(Api.PRODUCE, "answer"), broker.proxy.hold(Api.ADD_OFFSETS_TO_TXN)
        load(breakable_site, 60)
        sent.wait_caught()
        # Each step takes less than a request may, both together more than the transaction.
        time.sleep(5)
        assert state(broker, breakable_site) == "Ongoing"
        sent.release()
        offsets.wait_caught()
        eventually(lambda: state(broker, breakable_site) == "CompleteAbort", 10)
        account.landed()
        offsets.release()
        account.over()
        eventually(lambda: failed(process, cause="fenced") > before, 20, process.said)
        assert_finishes(breakable_site, process, account)


@pytest.mark.chaos
def test_a_batch_expires_inside_a_transaction(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: every message's future is asked before the commit, which else succeeds without the expired ones."""
    with settled(breakable_site, "w", tmp_path, **behind_proxy(broker, **LONG_SESSION)) as process:
        done, before = published(process), failed(process)
        broker.proxy.break_at(Api.PRODUCE)
        load(breakable_site, 60)
        # A worker that does not ask takes the transaction for published.
        eventually(lambda: published(process) > done or failed(process) > before, 30, process.said)
        assert broker.proxy.broken > 1
        account.landed()
        broker.proxy.heal()
        account.over()
        assert_finishes(breakable_site, process, account)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("api", "repeats"),
    [
        pytest.param(Api.PRODUCE, False, id="before its outcomes"),
        pytest.param(Api.OFFSET_COMMIT, True, id="before its offsets"),
    ],
)
def test_at_least_once_killed(
    broker: BrokerBehindProxy, breakable_site: Site, account: Account, tmp_path: Path, api: Api, repeats: bool
) -> None:
    """Guard: offsets follow the acknowledgement of their outcomes, or a kill loses them. Repeats have equal ids."""
    settings = behind_proxy(broker, TAGSTREAM_DELIVERY="at_least_once", **SHORT_SESSION)
    with settled(breakable_site, "w", tmp_path, **settings) as victim:
        step = broker.proxy.hold(api)
        load(breakable_site, 60)
        step.wait_caught()
        account.landed()
        victim.kill()
        broker.proxy.cut()
        step.release()
    inherit(breakable_site, account, tmp_path, settings)
    assert_repeats(account, breakable_site, repeats)


def assert_repeats(account: Account, site: Site, repeats: bool) -> None:
    """Nothing is lost, and repeats have equal ids."""
    ids: dict[Coordinates, list[str]] = {}
    for output in site.outputs():
        assert isinstance(output, EnrichedImage)
        ids.setdefault((output.event.partition, output.event.offset, output.event.index), []).append(output.id)
    account.lost = len(set(site.inputs()) - ids.keys())
    account.twice = sum(len(found) - 1 for found in ids.values())
    account.dead_lettered = len(site.letters())
    assert (account.lost, account.twice > 0, account.dead_lettered) == (0, repeats, 0)
    assert all(len(set(found)) == 1 for found in ids.values())


def test_an_outcome_that_is_too_large_for_its_topic_also_when_the_limit_came_later(
    breakable_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guards: the size check before sending, and a new look at the limits after a failed transaction, for a limit that
    was lowered meanwhile; otherwise the transaction is tried for ever."""
    with settled(breakable_site, "w", tmp_path) as process:
        before = failed(process)
        limit_messages(breakable_site, breakable_site.enriched, 700)
        load(breakable_site, 3, images=3)
        eventually(lambda: failed(process) > before, 30, process.said)
        account.landed()
        account.over()
        come_through(breakable_site, process, account)
    account.assert_site(breakable_site, letters=3)
    assert [dead_letter.failures[0].reason for dead_letter in breakable_site.letters()] == ["result-too-large"] * 3
