"""Redis is away, hangs, lies, is full or forgets: never more than a cache miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos.account import Account
from tests.chaos.line import Given, SharedLine, is_committed
from tests.chaos.proxy import FaultProxy, wait_for
from tests.integration.worker_process import Site, eventually, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

_seeds = iter(range(3_000, 4_000))


@pytest.fixture(autouse=True)
def _cache_again(line: SharedLine) -> Iterator[None]:
    yield
    line.cache.heal()
    line.cache.cut()


@pytest.fixture
def straight(line: SharedLine) -> Iterator[redis.Redis]:
    """Straight to the server."""
    client = redis.Redis(port=line.site.stack.valkey.ports[0])
    yield client
    client.config_set("maxmemory", "0")
    client.config_set("maxmemory-policy", "noeviction")
    client.close()


def fresh(line: SharedLine, number: int) -> list[Given]:
    keys = [f"cached-{next(_seeds)}.jpg" for _ in range(number)]
    for key in keys:
        line.site.upload(key, photo(next(_seeds)))
    return [(line.site.own(key), ()) for key in keys]


def remembers(line: SharedLine) -> None:
    """Until the cache answers hits again: the breaker has closed. Records are sent for it, one at a time."""
    [given] = fresh(line, 1)

    def a_copy_is_a_hit() -> bool:
        records = line.send([given])
        line.committed()
        return any(image.cache.tags == "hit" for image in line.results(records).images)

    eventually(a_copy_is_a_hit, 30, line.worker.said)


def errors(line: SharedLine) -> int:
    return int(line.worker.metric("tagstream_cache_errors_total"))


@pytest.mark.parametrize("fault", ["refuses", "hangs", "talks nonsense"])
def test_a_cache_that(line: SharedLine, account: Account, fault: str) -> None:
    """Guard: every cache call is bounded in time and its errors are misses; the breaker asks the dead no more."""
    remembers(line)
    before = errors(line)
    match fault:
        case "refuses":
            line.cache.refuse()
        case "hangs":
            line.cache.freeze()
        case _:
            line.cache.babble(b"\x00\xff no protocol of ours\r\n")
    records = line.send(fresh(line, 12))
    wait_for(lambda: errors(line) - before, 1)
    account.landed()
    found = line.settle(account, records)
    assert len(found.images) == 12
    line.cache.heal()
    line.cache.cut()
    account.over()
    remembers(line)
    account.recovered()


def test_a_full_cache(line: SharedLine, account: Account, straight: redis.Redis) -> None:
    """Guard: an error reply to a write is a miss later, not an exception now."""
    straight.config_set("maxmemory", "1")
    before = errors(line)
    records = line.send(fresh(line, 6))
    wait_for(lambda: errors(line) - before, 1)
    account.landed()
    assert len(line.settle(account, records).images) == 6
    straight.config_set("maxmemory", "0")
    account.over()
    remembers(line)
    account.recovered()


def test_a_cache_that_evicts(line: SharedLine, account: Account, straight: redis.Redis) -> None:
    """Guard: an entry that is gone is a miss, whatever other level of it is left."""
    given = fresh(line, 6)
    line.send(given)
    line.committed()
    keys = straight.keys()
    assert keys
    straight.delete(*keys[::2])
    account.landed()
    assert len(line.settle(account, line.send(given)).images) == 6


def test_a_cache_with_values_of_an_older_version(line: SharedLine, account: Account, straight: redis.Redis) -> None:
    """Guard: values carry their version and are checked; an unreadable one is a miss and never an answer."""
    given = fresh(line, 6)
    line.send(given)
    line.committed()
    spoiled = 0
    for key in list(straight.scan_iter()):
        if straight.type(key) == b"hash":
            for name in straight.hkeys(key):
                straight.hset(key, name, b"\x00an older format")
        else:
            straight.set(key, b'{"v": 0}')
        spoiled += 1
    assert spoiled
    account.landed()
    found = line.settle(account, line.send(given))
    assert len(found.images) == 6
    assert all(image.cache.tags == "miss" for image in found.images)


def test_a_cache_that_is_down_at_start(home: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the first connection is made at the first call; the worker starts without its cache and finds it later."""
    with FaultProxy(lambda: home.stack.valkey.ports[0]) as cache:
        cache.refuse()
        for number in range(8):
            home.upload(f"{number}.jpg", photo(next(_seeds)))
        home.send([(home.own(f"{number}.jpg"), ()) for number in range(8)])
        with worker(home, "w", tmp_path, TAGSTREAM_REDIS_URL=f"redis://127.0.0.1:{cache.port}/0") as process:
            wait_for(lambda: cache.refused, 1)
            account.landed()
            eventually(lambda: is_committed(home), 60, process.said)
            cache.heal()
            account.over()

            def hits() -> bool:
                home.send([(home.own("0.jpg"), ())])
                eventually(lambda: is_committed(home), 30, process.said)
                return process.metric("tagstream_cache_lookups_total", answer="hit") > 0

            eventually(hits, 30, process.said)
            account.recovered()
            assert process.terminate() == 0, process.said()
    account.settle_site(home)
