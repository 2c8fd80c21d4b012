"""The fakes' own controls: faults, delays, and a clock by hand."""

import time

from tagstream_testing.memory import MemoryResultCache
from workers.ports import SystemClock


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
