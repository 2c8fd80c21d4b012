"""The tokens of a day, counted in Redis and in a file."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from tagstream_remote.budget import Budget, Counter, FileCounter, RedisCounter, Reserved

from tagstream_testing.local.valkey import Valkey
from workers.backends.redis_client import redis_client
from workers.errors import Unavailable

DAY, NEXT_DAY = "2026-12-01", "2026-12-02"


class Kept(NamedTuple):
    """Where the sums of one test are kept: makes counters of them, and forgets them."""

    counter: Callable[[], Counter]
    forget: Callable[[], object]


@pytest.fixture(params=["file", pytest.param("valkey", marks=pytest.mark.servers)])
def kept(request: pytest.FixtureRequest, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[Kept]:
    if request.param == "file":
        path = tmp_path / "tokens" / "group"
        yield Kept(lambda: FileCounter(path), lambda: path.unlink())
        return
    client, prefix = redis_client(request.getfixturevalue("valkey").url, 10.0, None), unique("tokens") + ":"
    yield Kept(lambda: RedisCounter(client, prefix), lambda: client.delete(prefix + DAY, prefix + NEXT_DAY))
    client.close()


def budget(kept: Kept, per_day: int, days: list[str] | None = None) -> Budget:
    return Budget(per_day, kept.counter(), lambda: DAY if days is None else days[0])


def test_no_more_than_the_days_tokens_are_reserved_by_all_together(kept: Kept) -> None:
    one, two = budget(kept, 100), budget(kept, 100)
    assert one.reserve(60) == Reserved(DAY, 60)
    assert two.reserve(41) is None
    assert two.reserve(40) is not None
    assert one.reserve(1) is None
    assert [kept.counter().sum(day) for day in (DAY, NEXT_DAY)] == [100, 0]


def test_many_threads_together_reserve_the_limit_exactly(kept: Kept) -> None:
    budgets = [budget(kept, 1000) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        reserved = list(pool.map(lambda number: budgets[number % 4].reserve(7), range(400)))
    assert sum(each is not None for each in reserved) == 142


def test_what_a_call_has_cost_takes_the_place_of_what_was_reserved(kept: Kept) -> None:
    one = budget(kept, 100)
    cheap, dear = one.reserve(50), one.reserve(50)
    assert cheap is not None
    assert dear is not None
    one.settle(cheap, 10)
    assert one.reserve(41) is None
    one.settle(dear, 80)  # above the limit: it is spent already
    assert one.reserve(11) is None
    assert budget(kept, 91).reserve(1) is not None


def test_each_day_has_its_own_tokens_and_a_late_call_counts_on_the_day_of_its_begin(kept: Kept) -> None:
    days = [DAY]
    one = budget(kept, 100, days)
    late = one.reserve(90)
    assert late is not None
    assert one.reserve(20) is None
    days[0] = NEXT_DAY
    assert one.reserve(90) is not None
    one.settle(late, 0)
    kept.forget()
    assert one.reserve(20) is None
    assert one.reserve(10) is not None


def test_a_sum_that_was_lost_is_at_least_what_this_worker_knows_of(kept: Kept) -> None:
    one = budget(kept, 100)
    reserved = one.reserve(30)
    assert reserved is not None
    assert one.reserve(30) is not None
    kept.forget()
    assert one.reserve(50) is None
    kept.forget()
    one.settle(reserved, 0)
    assert budget(kept, 100).reserve(70) is not None
    assert one.reserve(1) is None


def test_without_a_limit_nothing_is_counted() -> None:
    one = Budget(0, None)
    reserved = one.reserve(10**9)
    assert reserved is not None
    one.settle(reserved, 1)


@pytest.mark.servers
def test_a_sum_is_kept_for_two_days(valkey: Valkey, unique: Callable[[str], str]) -> None:
    client, prefix = redis_client(valkey.url, 10.0, None), unique("tokens") + ":"
    Budget(100, RedisCounter(client, prefix), lambda: DAY).reserve(60)
    assert client.get(prefix + DAY) == b"60"
    assert 2 * 86400 - 60 < client.ttl(prefix + DAY) <= 2 * 86400
    client.set(prefix + DAY, "no number")
    with pytest.raises(Unavailable):
        Budget(100, RedisCounter(client, prefix), lambda: DAY).reserve(1)


def test_redis_that_does_not_answer_is_not_known_to_have_tokens_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = redis_client(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", 0.05, None)
        one = Budget(100, RedisCounter(client, "tokens:"), lambda: DAY)
        with pytest.raises(Unavailable, match="Redis"):
            one.reserve(1)
        one.settle(Reserved(DAY, 1), 1)


@pytest.mark.parametrize("content", [b"no sum", b"2026-12-01 12\n", b"9" * 100, None])
def test_a_file_that_holds_no_sum_or_can_not_be_written_gives_no_tokens(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path if content is None else tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unavailable, match="can't be counted" if content is None else "remove it"):
        Budget(100, FileCounter(path), lambda: DAY).reserve(1)


def test_a_clock_that_goes_back_spends_no_day_twice(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "tokens")
    assert Budget(100, counter, lambda: NEXT_DAY).reserve(60) is not None
    assert Budget(100, counter, lambda: DAY).reserve(60) is None
