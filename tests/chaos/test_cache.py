"""Redis is away, hangs, is full or forgets: never more than a cache miss."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from schemas.enriched_image import EnrichedImage
from tests.chaos.account import Account
from tests.chaos.shared_worker import Given, SharedWorker, is_committed
from tests.support.proxy import FaultProxy, wait_for
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

_seeds = iter(range(3_000, 4_000))


@pytest.fixture(autouse=True)
def _cache_again(shared: SharedWorker) -> Iterator[None]:
    yield
    shared.cache.heal()
    shared.cache.cut()


@pytest.fixture
def straight(shared: SharedWorker) -> Iterator[redis.Redis]:
    client = redis.Redis(port=shared.site.stack.valkey.ports[0])
    yield client
    client.config_set("maxmemory", "0")
    client.config_set("maxmemory-policy", "noeviction")
    client.close()


def fresh(shared: SharedWorker, number: int) -> list[Given]:
    """New images and events that name their etags, which the cache's first level goes by."""
    keys = [f"cached-{next(_seeds)}.jpg" for _ in range(number)]
    return [(shared.site.own(key, etag=shared.site.upload(key, photo(next(_seeds)))), ()) for key in keys]


def remembered(shared: SharedWorker, number: int = 1) -> list[Given]:
    """New images, until the cache answers hits for all: entries may come late, so records are sent meanwhile."""
    given = fresh(shared, number)

    def copies_are_hits() -> bool:
        records = shared.send(given)
        shared.committed()
        return all((image.cache.source, image.cache.tags) == ("hit", "hit") for image in shared.results(records).images)

    eventually(copies_are_hits, 30, shared.worker.said)
    return given


def errors(shared: SharedWorker, **labels: str) -> int:
    return int(shared.worker.metric("tagstream_cache_errors_total", **labels))


def assert_same_tags(images: list[EnrichedImage], others: list[EnrichedImage]) -> None:
    """For each key the same labels, and scores that are equal up to the rounding of another batch size."""

    def tags(some: list[EnrichedImage]) -> dict[tuple[str, int | None, str], float]:
        return {(image.source.key, tag.label_id, tag.name): tag.score for image in some for tag in image.tags}

    assert {image.source.key for image in images} == {image.source.key for image in others}
    assert tags(images) == pytest.approx(tags(others), abs=1e-4)


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_cache_that(shared: SharedWorker, account: Account, fault: str) -> None:
    """Guards: errors of every kind are misses; calls are bounded in time; the breaker asks the dead no more. Without
    the first the worker ends, without the second it stands still, without the third each call costs its timeout."""
    remembered(shared)
    before, paused = errors(shared), errors(shared, cause="paused")
    if fault == "refuses":
        shared.cache.refuse()
    else:
        shared.cache.freeze()
    records = shared.send(fresh(shared, 12))
    wait_for(lambda: errors(shared) - before, 1)
    account.landed()
    found = shared.settle(account, records)
    assert len(found.images) == 12
    assert errors(shared, cause="paused") > paused
    shared.cache.heal()
    shared.cache.cut()
    account.over()
    remembered(shared)
    account.recovered()


def test_a_full_cache(shared: SharedWorker, account: Account, straight: redis.Redis) -> None:
    """Guard: an error reply belongs to its command. As the server's it would open the breaker and block reads."""
    known = remembered(shared)
    straight.config_set("maxmemory", "1")
    before, paused = errors(shared, cause="full"), errors(shared, cause="paused")
    records = shared.send(fresh(shared, 6))
    wait_for(lambda: errors(shared, cause="full") - before, 1)
    account.landed()
    shared.committed()
    records += shared.send(known)
    found = shared.settle(account, records)
    assert [image.cache.tags for image in found.images].count("hit") == 1
    assert len(found.images) == 7
    assert errors(shared, cause="paused") == paused
    straight.config_set("maxmemory", "0")
    account.over()
    remembered(shared)
    account.recovered()


@pytest.mark.parametrize("level", ["source", "scores"])
def test_a_cache_that_evicts_its_level(
    shared: SharedWorker, account: Account, straight: redis.Redis, level: str
) -> None:
    """Guard: a missing entry is a miss; otherwise an image would be published with the facts of one level alone."""
    given = remembered(shared, 6)
    landed = shared.send(given)
    shared.committed()
    first = shared.results(landed)
    gone = list(straight.scan_iter(f"tagstream:*:{level}:*"))
    assert len(gone) >= 6
    straight.delete(*gone)
    account.landed()
    second = shared.settle(account, shared.send(given))
    assert_same_tags(second.images, first.images)
    source, content = ("miss", "hit") if level == "source" else ("hit", "miss")
    assert {(image.cache.source, image.cache.tags) for image in second.images} == {(source, content)}


def test_a_cache_that_is_down_at_start(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the first connection is made at the first call; the worker starts without its cache and finds it later."""
    with FaultProxy(lambda: steady_site.stack.valkey.ports[0]) as cache:
        cache.refuse()
        for number in range(8):
            steady_site.upload(f"{number}.jpg", photo(next(_seeds)))
        steady_site.send([(steady_site.own(f"{number}.jpg"), ()) for number in range(8)])
        with worker(steady_site, "w", tmp_path, TAGSTREAM_REDIS_URL=f"redis://127.0.0.1:{cache.port}/0") as process:
            wait_for(lambda: cache.refused, 1)
            account.landed()
            eventually(lambda: is_committed(steady_site), 60, process.said)
            cache.heal()
            account.over()

            def hits() -> bool:
                steady_site.send([(steady_site.own("0.jpg"), ())])
                eventually(lambda: is_committed(steady_site), 30, process.said)
                return process.metric("tagstream_cache_lookups_total", answer="hit") > 0

            eventually(hits, 30, process.said)
            account.recovered()
            assert process.terminate() == 0, process.said()
    account.assert_site(steady_site)
