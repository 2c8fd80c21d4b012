"""Workers that wait for a service's captions are killed, and it fails: nothing is lost, little is paid twice."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from remote.tests.stub import BEHAVIOURS, StubService
from tests.chaos.account import Account
from tests.chaos.scenes import SESSION_S, come_through
from tests.chaos.shared_worker import is_committed
from tests.support.captioned import KEY, missing, newest, pictures, request_again, send, settings_of
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEED = 519_000
REQUESTS = 4
KILLS = 4


@pytest.fixture
def service() -> Iterator[StubService]:
    with StubService(key=KEY) as stub:
        yield stub


def uploaded(site: Site, count: int) -> list[str]:
    keys = [f"{number}" for number in range(count)]
    for number, key in enumerate(keys):
        site.upload(key, photo(SEED + number))
    return keys


def asked_about(service: StubService, count: int) -> bool:
    return len(pictures(service)) >= count


def all_complete(site: Site) -> bool:
    return {each.status for each in newest(site).values()} == {"complete"}


def test_kills_again_and_again_pay_twice_for_the_calls_of_a_moment(
    steady_site: Site, service: StubService, account: Account, tmp_path: Path
) -> None:
    """Guard: an answer goes into the cache before its outcome is published, and no call is made ahead of its turn."""
    keys = uploaded(steady_site, 300)
    settings = settings_of(service, tmp_path, wait_s=60, requests=REQUESTS)
    settings |= {"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S)}
    service.delay_s = 0.02
    send(steady_site, keys)
    for _ in range(KILLS):
        with worker(steady_site, "w", tmp_path, **settings) as victim:
            goal = len(pictures(service)) + 40
            eventually(partial(asked_about, service, goal), 90, victim.said)
            account.landed()
            victim.kill()
    with worker(steady_site, "w", tmp_path, **settings) as heir:
        account.over()
        come_through(steady_site, heir, account, within_s=180)
    account.assert_site(steady_site)
    assert all_complete(steady_site)
    known, *own = pictures(service).values()  # the first is that of each start
    assert known == KILLS + 1
    assert sum(own) - len(own) <= KILLS * REQUESTS


def test_a_service_is_slow_away_wrong_and_back(
    steady_site: Site, service: StubService, account: Account, tmp_path: Path
) -> None:
    """Guard: the wait, the breaker, and reasons that bring no dead letter."""
    keys = uploaded(steady_site, 1_000)
    settings = settings_of(service, tmp_path, wait_s=2)

    def slow() -> None:
        service.delay_s = 0.5

    def wrong() -> None:
        """Once the worker knows that the service is up again."""
        service.delay_s, known = 0, len(service.asked)
        service.up()
        eventually(lambda: len(service.asked) > known, 120)
        wrongs = cycle(["refusal", "null", "not-json", "length"])
        service.always(lambda asked: BEHAVIOURS[next(wrongs)](asked))

    def back() -> None:
        service.always("ok")

    phases = [slow, service.down, wrong, back]
    with worker(steady_site, "w", tmp_path, **settings) as process:
        for number, begin in enumerate(phases):
            begin()
            account.landed()
            for first in range(number, len(keys), 100):  # all at once would wait through a phase for a few calls
                send(steady_site, keys[first : first + 100 : 4])
                eventually(lambda: is_committed(steady_site), 180, process.said)
        account.over()
        account.recovered()
        assert process.terminate() == 0, process.said()
    account.assert_site(steady_site)
    found = newest(steady_site)
    reasons = Counter(reason for each in found.values() for _, reason in missing(each))
    assert reasons["caption-unavailable"] >= 250, reasons
    assert reasons["caption-refused"] >= 20, reasons
    for reason in ("caption-unavailable", "caption-refused"):
        request_again(steady_site, settings, tmp_path, reason)
    with worker(steady_site, "again", tmp_path, **settings | {"TAGSTREAM_CAPTION_WAIT_S": "600"}) as process:
        eventually(partial(all_complete, steady_site), 300, process.said, pause_s=2, last_pause_s=5)
        assert process.terminate() == 0, process.said()
    assert steady_site.audit().proved
