"""Small parts of the flow: gate, queues, and turns by bytes."""

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.pipeline.flow.budget import ExclusiveGate
from workers.pipeline.flow.byte_turns import TURN_BYTES, ByteTurns
from workers.pipeline.stages.stage import StageQueue
from workers.types import Assignment, Partition


def test_a_suspect_waits_until_all_have_left_and_keeps_the_others_out() -> None:
    gate, inside = ExclusiveGate(), list[str]()
    gate.enter(lambda: inside.append("a"), alone=False)
    gate.enter(lambda: inside.append("suspect"), alone=True)
    gate.enter(lambda: inside.append("b"), alone=False)
    assert inside == ["a"]
    gate.leave()
    assert inside == ["a", "suspect"]
    gate.leave()
    assert inside == ["a", "suspect", "b"]


def test_thousands_that_leave_at_once_do_not_recurse() -> None:
    gate, count = ExclusiveGate(), 0

    def pass_through() -> None:
        nonlocal count
        count += 1
        gate.leave()

    gate.enter(lambda: None, alone=True)
    for _ in range(5_000):
        gate.enter(pass_through, alone=False)
    assert count == 0
    gate.leave()
    assert count == 5_000


def test_an_added_item_wakes_no_thread_and_is_taken_with_the_next_put() -> None:
    filled = threading.Condition()
    queue = StageQueue[int](filled)
    woken = threading.Event()
    waits = threading.Event()

    def wait() -> None:
        with filled:
            waits.set()
            filled.wait(30)
            woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(30)
    queue.add(1)
    assert not woken.wait(0.05)
    queue.put(2)
    thread.join(30)
    assert woken.is_set()
    assert queue.take(9) == [1, 2]


Item = tuple[int, int]
"""Partition and size."""


class Waiting:
    """Items of some partitions; the partitions in `held` may not leave."""

    def __init__(self, partitions: int = 3) -> None:
        self.held: set[int] = set()
        self.assignments = [Assignment(Partition("images", number), "m") for number in range(partitions)]
        self.turns = ByteTurns[Item](lambda item: item[0] not in self.held)

    def add(self, partition: int, *sizes: int) -> None:
        for size in sizes:
            self.turns.add(self.assignments[partition], (partition, size), size)


def test_a_large_item_leaves_once_the_others_have_had_as_many_bytes() -> None:
    waiting = Waiting()
    waiting.add(0, *[16 * TURN_BYTES] * 3)
    for partition in (1, 2):
        waiting.add(partition, *[TURN_BYTES // 8] * 400)
    left = [partition for partition, _ in waiting.turns.rounds()]
    places = [place for place, partition in enumerate(left) if partition == 0]
    small = [Counter(left[:place]) for place in places]
    assert [counts[1] for counts in small] == [15 * 8, 31 * 8, 47 * 8]
    assert [counts[2] for counts in small] == [15 * 8, 31 * 8, 47 * 8]


def test_a_large_item_that_waits_alone_leaves_in_the_first_round() -> None:
    waiting = Waiting()
    waiting.add(0, 64 * TURN_BYTES, 1)
    assert list(waiting.turns.round()) == [(0, 64 * TURN_BYTES)]


def test_nothing_is_saved_up_while_nothing_may_leave() -> None:
    waiting = Waiting()
    waiting.add(0, *[1_000] * 500)
    waiting.held.add(0)
    for _ in range(100):
        waiting.add(1, 1)
        assert list(waiting.turns.round()) == [(1, 1)]
    waiting.held.clear()
    assert len(list(waiting.turns.round())) == TURN_BYTES // 1_000


def test_what_may_not_leave_any_more_ends_a_turn_and_the_others_come_first_in_the_next_round() -> None:
    waiting = Waiting(2)
    waiting.add(0, 1, 1)
    waiting.add(1, 1, 1)
    left: list[int] = []
    for _ in range(4):
        waiting.held.clear()
        for partition, _size in waiting.turns.round():
            left.append(partition)
            waiting.held |= {0, 1}
    assert left == [0, 1, 0, 1]


def test_what_waits_of_an_ended_assignment_is_dropped_and_counted() -> None:
    waiting = Waiting()
    waiting.add(0, 5, 5)
    waiting.add(1, 7)
    waiting.assignments[0].end()
    assert waiting.turns.drop_ended() == 2
    assert waiting.turns.sizes == {waiting.assignments[1]: 7}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40 * TURN_BYTES)), min_size=1, max_size=60))
def test_everything_leaves_once_and_in_order_and_no_partition_is_far_ahead_of_one_that_waits(items: list[Item]) -> None:
    waiting, largest = Waiting(), max(size for _, size in items)
    for partition, size in items:
        waiting.add(partition, size)
    left = {partition: [item for item in items if item[0] == partition] for partition in range(3)}
    given_bytes: Counter[int] = Counter()
    for item in waiting.turns.rounds():
        assert left[item[0]].pop(0) == item
        given_bytes[item[0]] += item[1]
        for partition, others in left.items():
            if others:
                assert given_bytes[item[0]] - given_bytes[partition] <= largest + 2 * TURN_BYTES
    assert not any(left.values())
    assert not len(waiting.turns)
    assert waiting.turns.sizes == {}


def test_a_round_asks_of_background_partitions_only_until_one_may_leave() -> None:
    """Guard: a worker that holds hundreds of them asks for each record that it admits."""
    waiting, asked = Waiting(100), list[Item]()

    def may_leave(item: Item) -> bool:
        asked.append(item)
        return True

    waiting.turns = ByteTurns[Item](may_leave)
    for partition, assignment in enumerate(waiting.assignments):
        assignment.background = True
        waiting.add(partition, 1)
    assert list(waiting.turns.round()) == [(0, 1)]
    assert len(asked) == 2
