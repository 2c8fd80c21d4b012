"""The servers that these tests break, one worker that many faults share, and the report of their effects."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.chaos.account import HEAD, Account
from tests.chaos.shared_worker import SharedWorker
from tests.fixtures import Stack, Unique, own, up_or_skip
from tests.support.broker import BrokerBehindProxy
from tests.support.worker_process import Site

_ACCOUNT = pytest.StashKey[Account]()
_ACCOUNTS = pytest.StashKey[list[Account]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with an account get the marker `fault` automatically."""
    for item in items:
        if "account" in getattr(item, "fixturenames", ()):
            item.add_marker("fault")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    account = item.stash.get(_ACCOUNT, None)
    if account is not None and call.when == "call":
        account.verdict = getattr(report, "wasxfail", "") or report.outcome  # type: ignore[attr-defined]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report where CHAOS_REPORT says (`make chaos` does)."""
    accounts = session.config.stash.get(_ACCOUNTS, [])
    if not accounts or "CHAOS_REPORT" not in os.environ:
        return
    path = Path(os.environ["CHAOS_REPORT"])
    path.parent.mkdir(parents=True, exist_ok=True)
    bad = sum(account.verdict != "passed" for account in accounts)
    head = f"# Faults and what came of them\n\n{len(accounts)} scripted faults, {bad} not survived as promised.\n\n"
    path.write_text(head + HEAD + "".join(account.row() for account in accounts))


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Account:
    """The row of this test; its name is the fault."""
    name = request.node.name.removeprefix("test_").replace("_", " ").replace("[", ": ").removesuffix("]")
    made = Account(name)
    request.node.stash[_ACCOUNT] = made
    request.config.stash.setdefault(_ACCOUNTS, []).append(made)
    return made


@pytest.fixture(scope="package")
def s3(scratch: Scratch) -> Iterator[SeaweedFS]:
    yield from own(SeaweedFS, scratch)


@pytest.fixture(scope="package")
def valkey(scratch: Scratch) -> Iterator[Valkey]:
    yield from own(Valkey, scratch)


@pytest.fixture(scope="package")
def stack(kafka: ApacheKafka, s3: SeaweedFS, valkey: Valkey) -> Stack:
    return Stack(kafka, s3, valkey)


@pytest.fixture(scope="package")
def broker(scratch: Scratch) -> Iterator[BrokerBehindProxy]:
    """A broker to break; a test leaves it running, thawed and with a healed proxy."""
    yield from up_or_skip(BrokerBehindProxy(scratch.path / "broken-kafka"))


@pytest.fixture
def breakable_site(broker: BrokerBehindProxy, s3: SeaweedFS, valkey: Valkey, unique: Unique) -> Iterator[Site]:
    """Topics on the broker that may be broken; tests read it by the straight way."""
    yield Site(Stack(broker, s3, valkey), unique("line"))
    broker.proxy.heal()
    broker.thaw()
    if not broker.running:
        broker.start()


@pytest.fixture
def steady_site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("line"))


@pytest.fixture(scope="package")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedWorker]:
    """One worker behind a lying store and a Redis proxy, for every fault that leaves it alive."""
    with SharedWorker.started(stack, tmp_path_factory.mktemp("line")) as shared:
        yield shared
