"""Partitions take turns in the decoders by the time that their images took; fetches wait for a thread."""

import threading
from collections import Counter
from concurrent.futures import wait

import pytest

from tests.support.waiting import bounded
from workers.intake.threads import Pool
from workers.intake.turns import Turns
from workers.types import Partition


def test_a_pool_runs_a_fixed_number_of_calls_at_once() -> None:
    pool, running, gate = Pool(3, "test"), threading.Semaphore(0), threading.Event()

    def call() -> None:
        running.release()
        gate.wait(100)

    futures = [pool.submit(call) for _ in range(5)]
    for _ in range(3):
        assert running.acquire(timeout=30)
    assert not running.acquire(timeout=0.1)
    gate.set()
    assert not wait(futures, 10).not_done


def test_a_stopped_pool_drops_waiting_and_later_calls_and_waits_for_a_running_one_within_a_time() -> None:
    pool, running, gate = Pool(1, "test"), threading.Event(), threading.Event()

    def call() -> bool:
        running.set()
        return gate.wait(100)

    first = pool.submit(call)
    waiting = pool.submit(lambda: True)
    assert running.wait(30)
    pool.stop()
    assert waiting.cancelled()
    assert pool.submit(lambda: True).cancelled()
    with bounded():
        pool.wait(0.05)
    assert not first.done()
    gate.set()
    pool.wait(30)
    assert first.result(0) is True
    assert not wait([first, waiting], 1).not_done, "a waiter would wait for ever"


A, B, C = (Partition("images", number) for number in range(3))


def test_items_of_one_partition_come_in_order_and_by_rank() -> None:
    turns: Turns[str] = Turns(ranks=2)
    turns.add(A, "second")
    turns.add(A, "last", rank=1)
    turns.add(A, "first", first=True)
    assert turns.next(from_rank=1) == "last"
    assert [turns.next(), turns.take(), turns.take(), turns.take()] == ["first", "first", "second", "last"]
    assert turns.next() is None


def test_live_partitions_go_first_and_a_background_one_has_every_ninth_turn() -> None:
    turns: Turns[str] = Turns()
    for _ in range(3):
        turns.add(C, "background", background=True)
    for _ in range(30):
        turns.add(A, "live")
    assert [number for number in range(33) if turns.take() == "background"] == [8, 17, 26]
    turns.add(A, "live")
    assert turns.take() == "live"
    for _ in range(20):
        turns.add(A, "live")
        turns.take()
    turns.add(C, "background", background=True)
    turns.add(A, "live")
    assert turns.take() == "live", "it waits for turns from when it came"


def served(turns: Turns[str], seconds: dict[Partition, float], count: int) -> Counter[str]:
    """How often each partition was served, by name and time of its items."""
    found: Counter[str] = Counter()
    by_name = {str(partition): partition for partition in seconds}
    for _ in range(count):
        name = turns.take()
        found[name] += 1
        turns.took(by_name[name], seconds[by_name[name]])
        turns.add(by_name[name], name)
    return found


def test_partitions_get_the_same_time_and_not_the_same_number() -> None:
    """Guard: by number, one image of two seconds goes before each of two milliseconds."""
    turns: Turns[str] = Turns()
    for partition in (A, B, C):
        turns.add(partition, str(partition))
    found = served(turns, {A: 2.0, B: 0.02, C: 0.01}, 3_000)
    assert 0 < found[str(A)] <= 15
    assert 1_900 < found[str(C)] < 2_100


def test_one_that_had_nothing_for_a_while_is_next_and_has_no_more_to_ask_for() -> None:
    turns: Turns[str] = Turns()
    turns.add(A, str(A))
    served(turns, {A: 1.0}, 100)
    turns.add(A, str(A))
    for _ in range(100):
        turns.add(B, str(B))
    turns.took(B, 0.4)
    found = [turns.take() for _ in range(8)]
    assert found[0] == str(B)
    assert found.count(str(A)) == 2


def test_partitions_can_be_passed_over_and_one_is_alone_a_minute_after_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("workers.intake.turns.time.monotonic", lambda: now)
    turns: Turns[str] = Turns()
    turns.add(A, "a")
    assert turns.alone(A)
    turns.add(B, "b")
    assert not turns.alone(A)
    assert [turns.next(), turns.next(passed=[A]), turns.next(passed=[A, B])] == ["a", "b", None]
    assert turns.take(passed=[A]) == "b"
    now += 61
    turns.add(A, "a again")
    assert turns.alone(A)
    assert not turns.alone(B)


def test_a_drain_returns_all_items() -> None:
    turns: Turns[str] = Turns(ranks=2)
    turns.add(A, "a", rank=1)
    turns.add(None, "b")
    assert sorted(turns.drain()) == ["a", "b"]
    assert turns.next() is None
