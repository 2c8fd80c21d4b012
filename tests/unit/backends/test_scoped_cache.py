"""Namespaces on one cache, and entries that only who has the key can make."""

from __future__ import annotations

import pytest

from tagstream_testing.memory import MemoryResultCache
from workers import metrics
from workers.backends.scoped_cache import ScopedCache

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def causes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The causes counted in CACHE_ERRORS, in order."""
    counted: list[object] = []
    monkeypatch.setattr(metrics.CACHE_ERRORS, "add", lambda *_, **labels: counted.append(labels["cause"]))
    return counted


def filled(cache: ScopedCache) -> ScopedCache:
    cache.remember({"a": b"1", "b": b"2"}, {("h", "a"): b"3", ("h", "b"): b"4", ("i", "a"): b"5"})
    return cache


def everything(cache: ScopedCache) -> list[bytes | None]:
    return cache.lookup(["a", "b"]) + cache.lookup_fields([("h", "a"), ("h", "b"), ("i", "a")])


@pytest.mark.parametrize("key", [b"", KEY])
def test_what_one_namespace_remembers_or_forgets_is_nothing_to_another(key: bytes) -> None:
    shared = MemoryResultCache()
    one, other = (ScopedCache(shared, namespace=name, key=key) for name in ("one", "other"))
    filled(one)
    assert everything(other) == [None] * 5
    other.forget(["h", "i"])
    assert everything(one) == [b"1", b"2", b"3", b"4", b"5"]


def test_two_workers_with_one_key_share_their_results() -> None:
    shared = MemoryResultCache()
    filled(ScopedCache(shared, namespace="n", key=KEY))
    assert everything(ScopedCache(shared, namespace="n", key=KEY)) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("writer", [OTHER_KEY, b""])
def test_what_was_written_without_the_key_is_a_miss(writer: bytes, causes: list[object]) -> None:
    shared = MemoryResultCache()
    filled(ScopedCache(shared, namespace="n", key=writer))
    assert everything(ScopedCache(shared, namespace="n", key=KEY)) == [None] * 5
    assert causes == ["forged"] * 5


def test_no_entry_can_be_moved_to_another_name(causes: list[object]) -> None:
    shared = MemoryResultCache()
    ours = filled(ScopedCache(shared, namespace="n", key=KEY))
    [plain] = shared.lookup(["tagstream:n:a"])
    [field] = shared.lookup_fields([("tagstream:n:h", "a")])
    assert plain is not None
    assert field is not None
    shared.remember(
        {"tagstream:n:b": plain, "tagstream:n:h": field, "tagstream:m:a": plain},
        {("tagstream:n:h", "b"): field, ("tagstream:n:i", "a"): field, ("tagstream:n:a", ""): plain},
    )
    assert ours.lookup(["b", "h"]) == [None, None]
    assert ours.lookup_fields([("h", "b"), ("i", "a"), ("a", "")]) == [None, None, None]
    assert ScopedCache(shared, namespace="m", key=KEY).lookup(["a"]) == [None]
    assert ours.lookup(["a"]) == [b"1"]
    assert set(causes) == {"forged"}


def test_a_name_that_reads_like_another_with_its_field_is_not_that() -> None:
    shared = MemoryResultCache()
    ours = ScopedCache(shared, namespace="n", key=KEY)
    ours.remember({}, {("h", "ab"): b"1"})
    [sealed] = shared.lookup_fields([("tagstream:n:h", "ab")])
    assert sealed is not None
    shared.remember({}, {("tagstream:n:ha", "b"): sealed})
    assert ours.lookup_fields([("ha", "b")]) == [None]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33])
def test_any_changed_byte_or_length_is_a_miss(length: int) -> None:
    shared = MemoryResultCache()
    ours = filled(ScopedCache(shared, namespace="n", key=KEY))
    [sealed] = shared.lookup(["tagstream:n:a"])
    assert sealed is not None
    assert len(sealed) == 33
    changed = sealed[:length] if length < 33 else sealed[:-1] + bytes([sealed[-1] ^ 1])
    shared.remember({"tagstream:n:a": changed}, {})
    assert ours.lookup(["a"]) == [None]
