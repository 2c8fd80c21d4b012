"""The result cache's port, on the fake in memory and on a real server of Redis' protocol, bare and in a namespace."""

import time
from collections.abc import Callable, Iterator

import pytest

from tagstream_testing.memory import ManualClock, MemoryResultCache
from workers.backends.result_cache import RedisResultCache
from workers.backends.scoped_cache import ScopedCache
from workers.ports import ResultCache

TTL_S = 0.5

Named = Callable[[str], str]

SERVED = ("valkey", "scoped valkey")


@pytest.fixture(params=["memory", "scoped memory", *(pytest.param(k, marks=pytest.mark.servers) for k in SERVED)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(
    kind: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[float], tuple[ResultCache, Callable[[float], None]]]]:
    """Makes a cache of a time to live, and the way to let time pass for it."""
    made: list[ResultCache] = []

    def build(ttl_s: float) -> tuple[ResultCache, Callable[[float], None]]:
        clock = ManualClock()
        bare: ResultCache = MemoryResultCache(ttl_s=ttl_s, clock=clock)
        if kind in SERVED:
            bare = RedisResultCache(request.getfixturevalue("valkey").url, ttl_s=ttl_s, timeout_s=10.0)
        scoped = ScopedCache(bare, namespace="one", key=b"k" * 32)
        made.append(scoped if kind.startswith("scoped") else bare)
        return made[-1], time.sleep if kind in SERVED else clock.advance

    yield build
    for cache in made:
        cache.close()


@pytest.fixture
def cache(make: Callable[[float], tuple[ResultCache, Callable[[float], None]]]) -> ResultCache:
    return make(60.0)[0]


def test_a_name_without_an_entry_is_a_miss(cache: ResultCache, unique: Named) -> None:
    assert cache.lookup([unique("key"), unique("key")]) == [None, None]
    assert cache.lookup_fields([(unique("hash"), "field")]) == [None]


def test_nothing_asked_is_nothing_answered(cache: ResultCache) -> None:
    cache.remember({}, {})
    cache.forget([])
    assert cache.lookup([]) == []
    assert cache.lookup_fields([]) == []


def test_values_come_back_in_the_order_that_was_asked(cache: ResultCache, unique: Named) -> None:
    one, two = unique("key"), unique("key")
    cache.remember({one: b"1", two: b"\x00\xff not utf-8"}, {})
    assert cache.lookup([two, unique("key"), one, two]) == [b"\x00\xff not utf-8", None, b"1", b"\x00\xff not utf-8"]


def test_fields_come_back_in_the_order_that_was_asked_across_hashes(cache: ResultCache, unique: Named) -> None:
    one, two = unique("hash"), unique("hash")
    cache.remember({}, {(one, "a"): b"1a", (two, "a"): b"2a", (one, "b"): b"1b"})
    asked = [(one, "b"), (two, "a"), (two, "b"), (one, "a"), (one, "b")]
    assert cache.lookup_fields(asked) == [b"1b", b"2a", None, b"1a", b"1b"]


def test_a_later_value_replaces_the_earlier_one_and_leaves_the_hashs_other_fields(
    cache: ResultCache, unique: Named
) -> None:
    key, name = unique("key"), unique("hash")
    cache.remember({key: b"old"}, {(name, "a"): b"old", (name, "b"): b"stays"})
    cache.remember({key: b"new"}, {(name, "a"): b"new"})
    assert cache.lookup([key]) == [b"new"]
    assert cache.lookup_fields([(name, "a"), (name, "b")]) == [b"new", b"stays"]


def test_a_forgotten_hash_is_gone_with_all_its_fields_and_no_other(cache: ResultCache, unique: Named) -> None:
    gone, stays = unique("hash"), unique("hash")
    cache.remember({}, {(gone, "a"): b"1", (gone, "b"): b"2", (stays, "a"): b"3"})
    cache.forget([gone, unique("hash")])
    assert cache.lookup_fields([(gone, "a"), (gone, "b"), (stays, "a")]) == [None, None, b"3"]


def test_a_forgotten_key_is_gone(cache: ResultCache, unique: Named) -> None:
    gone, stays = unique("key"), unique("key")
    cache.remember({gone: b"1", stays: b"2"}, {})
    cache.forget([gone])
    assert cache.lookup([gone, stays]) == [None, b"2"]


def test_hashes_come_back_whole_in_the_order_that_was_asked(cache: ResultCache, unique: Named) -> None:
    one, two, key = unique("hash"), unique("hash"), unique("key")
    cache.remember({key: b"no hash"}, {(one, "a"): b"1a", (one, "b"): b"1b", (two, "a"): b"2a"})
    assert cache.hashes([two, unique("hash"), key, one]) == [{"a": b"2a"}, {}, {}, {"a": b"1a", "b": b"1b"}]
    assert cache.hashes([]) == []


def test_keys_and_hashes_end_with_their_time_to_live(
    make: Callable[[float], tuple[ResultCache, Callable[[float], None]]], unique: Named
) -> None:
    cache, wait = make(TTL_S)
    key, name = unique("key"), unique("hash")
    cache.remember({key: b"1"}, {(name, "a"): b"2"})
    assert cache.lookup([key]) == [b"1"]
    wait(TTL_S + 0.1)
    assert cache.lookup([key]) == [None]
    assert cache.lookup_fields([(name, "a")]) == [None]


def test_more_than_one_round_trip_holds_is_remembered_and_looked_up(cache: ResultCache, unique: Named) -> None:
    stem = unique("key")
    values = {f"{stem}:{number}": str(number).encode() for number in range(700)}
    fields = {(f"{stem}:h{number}", "f"): str(number).encode() for number in range(700)}
    cache.remember(values, fields)
    assert cache.lookup(list(values)) == list(values.values())
    assert cache.lookup_fields(list(fields)) == list(fields.values())


def test_a_value_of_more_than_a_mebibyte_is_not_kept(cache: ResultCache, unique: Named) -> None:
    key, name = unique("key"), unique("hash")
    large, largest = bytes(2**20 + 1), bytes(2**20 - 32)  # a MAC takes 32
    cache.remember({key: large}, {(name, "large"): large, (name, "largest"): largest})
    assert cache.lookup([key]) == [None]
    assert cache.lookup_fields([(name, "large"), (name, "largest")]) == [None, largest]
