"""The budget grants bytes in order and fairly, and never above the limit except to a lone large reservation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pipeline.flow.budget import Budget, Reservation
from workers.types import Partition

A, B = Partition("in", 0), Partition("in", 1)


def reserved(budget: Budget, partition: Partition, *sizes: int) -> list[Reservation]:
    """The granted ones of these, also those that are granted later."""
    granted: list[Reservation] = []
    for size in sizes:
        budget.reserve(partition, size, granted.append)
    return granted


def test_a_reservation_that_fits_is_granted_at_once() -> None:
    budget = Budget(100)
    assert [t.size for t in reserved(budget, A, 40)] == [40]
    assert budget.used == 40


def test_within_a_partition_grants_go_in_order_even_when_a_later_one_would_fit() -> None:
    granted = reserved(Budget(100), A, 50, 40, 30, 1)
    assert [t.size for t in granted] == [50, 40]
    granted[0].release()
    assert [t.size for t in granted[1:]] == [40, 30, 1]


def test_a_stuck_partition_leaves_the_share_of_the_others_alone() -> None:
    budget = Budget(100)
    budget.divide(2)
    assert sum(t.size for t in reserved(budget, A, *[5] * 20)) == 75
    for _ in range(3):
        [flowing] = reserved(budget, B, 25)
        flowing.release()


def test_with_more_partitions_than_units_each_can_still_get_one() -> None:
    """Guard: the least share. Without it one partition takes the whole pool, and the others wait for it."""
    budget, flowing = Budget(16), list[Reservation]()
    budget.divide(24)
    stuck = reserved(budget, A, *[1] * 100)
    assert len(stuck) == 9
    for number in range(1, 24):
        budget.reserve(Partition("in", number), 1, flowing.append)
    assert len(flowing) == 7
    for _ in range(16):
        flowing.pop(0).release()
    assert len(stuck) == 9


def test_new_partitions_wait_until_old_ones_give_up_their_larger_shares() -> None:
    budget = Budget(100)
    old = reserved(budget, A, *[10] * 10)
    budget.divide(2)
    new = reserved(budget, B, 10)
    assert (new, budget.peak) == ([], 100)
    old[0].release()
    assert [t.size for t in new] == [10]


def test_waiting_reservations_continue_once_shares_grow() -> None:
    budget = Budget(100)
    budget.divide(4)
    granted = reserved(budget, A, *[25] * 4)
    assert len(granted) == 2  # two of the pool; a share has 12 bytes
    budget.divide(1)
    assert len(granted) == 4


def test_one_above_every_share_waits_for_the_pool_and_runs_alone_in_it() -> None:
    budget = Budget(100)
    budget.divide(2)
    held, large = reserved(budget, A, *[10] * 7), reserved(budget, B, 80)
    assert (len(held), large, reserved(budget, A, 10)) == (7, [], [])
    for reservation in held[2:]:
        reservation.release()
    assert [t.size for t in large] == [80]
    assert budget.used <= 20 + 80


def test_a_second_release_of_a_reservation_counts_for_nothing() -> None:
    budget = Budget(100)
    [granted] = reserved(budget, A, 40)
    granted.shrink(10)
    granted.shrink(30)
    assert budget.used == 10
    granted.release()
    granted.release()
    assert budget.used == 0


def test_it_remembers_the_most_that_was_ever_reserved() -> None:
    budget = Budget(100)
    reserved(budget, A, 30, 20)[0].release()
    reserved(budget, A, 5)
    assert (budget.used, budget.peak) == (25, 50)


def test_thousands_that_give_back_at_once_do_not_recurse() -> None:
    budget, count = Budget(10), 0

    def give_back(reservation: Reservation) -> None:
        nonlocal count
        count += 1
        reservation.release()

    first, _ = reserved(budget, A, 5, 5)
    for _ in range(5_000):
        budget.reserve(A, 5, give_back)
    assert count == 0
    first.release()
    assert count == 5_000


SIZES = st.sampled_from((1, 7, 12, 25, 26, 50, 51, 200))
ASKED = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), SIZES, st.booleans()), max_size=60)


@pytest.mark.parametrize("lanes", [False, True])
@given(asked=ASKED)
def test_everything_is_granted_in_the_end_and_the_limit_holds(
    lanes: bool, asked: list[tuple[int, int, int, int, bool]]
) -> None:
    budget, granted = Budget(100, ["behind"] if lanes else ()), list[Reservation]()
    for live, background, number, size, release in asked:
        if lanes:
            budget.divide(live, background)
            budget.reserve(Partition("behind" if number % 2 else "in", number), size, granted.append)
        else:
            budget.divide(1 + background)
            budget.reserve(Partition("in", number % (1 + background)), size, granted.append)
        if release and granted:
            granted[0].release()
        largest = max((t.size for t in granted), default=0)
        assert budget.used <= 100 + max(0, largest - 50)
    while budget.waiting:
        before = budget.waiting
        for reservation in list(granted):
            reservation.release()
        assert budget.waiting < before
    assert len(granted) == len(asked)
