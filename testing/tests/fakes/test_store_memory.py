"""The fakes' own controls: faults, delays, and a clock by hand."""

import time

import pytest

from tagstream_testing.memory import ManualClock, MemoryObjectStore, MemoryResultCache
from workers.errors import Unavailable
from workers.ports import SystemClock
from workers.types import StoredObject

DOWN = Unavailable("s3", "HTTP 503")


def read(store: MemoryObjectStore, key: str, deadline_s: float = 5.0) -> StoredObject:
    return store.get("b", key, version_id=None, etag=None, max_bytes=99, deadline_s=deadline_s)


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore(clock=ManualClock(wall=1_800_000_000.5))
    store.put("b", "one", b"1")
    store.put("b", "two", b"2")
    return store


def test_a_fault_of_one_key_leaves_the_others_alone_and_ends_by_itself(store: MemoryObjectStore) -> None:
    store.fail("b", "one", DOWN, times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            read(store, "one")
    assert read(store, "two").body == b"2"
    assert read(store, "one").body == b"1"


def test_a_fault_of_a_bucket_lasts_until_it_is_healed(store: MemoryObjectStore) -> None:
    store.fail("b", None, DOWN)
    for key in ("one", "two", "one"):
        with pytest.raises(Unavailable):
            read(store, key)
    store.heal()
    assert read(store, "one").body == b"1"


def test_a_delay_below_the_deadline_is_waited_for_and_one_above_is_not(store: MemoryObjectStore) -> None:
    store.delay("b", "one", 0.05)
    began = time.monotonic()
    assert read(store, "one").body == b"1"
    assert time.monotonic() - began >= 0.05
    store.delay("b", "one", 60.0)
    with pytest.raises(Unavailable, match="within"):
        read(store, "one", deadline_s=0.05)


def test_a_cache_that_is_down_answers_nothing_and_forgets_nothing() -> None:
    cache = MemoryResultCache()
    cache.remember({"a": b"1"}, {("h", "f"): b"2"})
    cache.down = True
    cache.remember({"b": b"1"}, {})
    cache.forget(["h"])
    assert cache.lookup(["a", "b"]) == [None, None]
    assert cache.lookup_fields([("h", "f")]) == [None]
    cache.down = False
    assert cache.lookup(["a", "b"]) == [b"1", None]
    assert cache.lookup_fields([("h", "f")]) == [b"2"]


def test_the_systems_clock_tells_real_time() -> None:
    clock = SystemClock()
    monotonic, wall = clock.monotonic(), clock.wall()
    clock.sleep(0.02)
    clock.sleep(-1.0)
    assert 0.02 <= clock.monotonic() - monotonic < 5
    assert abs(wall - time.time()) < 5
